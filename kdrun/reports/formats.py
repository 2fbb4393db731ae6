"""A report in other forms than a page: Markdown to paste, CSV with a line per run, JSON with everything."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

from kdrun import __version__
from kdrun.reports.board import COLUMNS, Board, lineage
from kdrun.reports.reading import Record, text
from kdrun.reports.settings import differing_keys, shown_key, stage_of, what

FACTS = ("run", "status", "stage", "data", "seed", "fingerprint", "started")
RISKY = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for a formula


def as_markdown(board: Board, title: str) -> str:
    heads = ["setting", "stage", "data", "n", "missing", *(name for name, _ in COLUMNS[:7]), "n test"]
    lines = [f"# {_cell(title)}", "", *(f"- {_cell(sentence)}" for sentence in board.best), ""]
    lines += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in board.rows:
        own = row.setting
        facts = [own.name, own.first.stage, own.first.data, str(len(own.runs)), str(own.missing or "")]
        shown = [*facts, *(shown for shown, _ in row.cells[:7]), "" if own.samples is None else f"{own.samples:,}"]
        lines.append(f"| {' | '.join(_cell(one) for one in shown)} |")
    lines += [
        "",
        "Mean ± sd over n seeds; a number of another n says so; rows by validation accuracy; "
        "the test split was read once, after the choice.",
    ]
    if differences := board.differences:
        lines += ["", "| key that differs | values |", "|---|---|"]
        lines += [f"| {_cell(key)} | {_cell(values)} |" for key, values in differences]
    if board.failures:
        lines += ["", "Without a result:", ""]
        lines += [f"- {_cell(status)}: {_cell(what)}: {_cell(why)}" for status, what, why in board.failures]
    return "\n".join(lines) + "\n"


def as_csv(board: Board) -> str:
    """A line per run: what it is, the keys that differ, and every number of its summary."""
    runs = board.found.runs
    keys = differing_keys(runs)
    numbers = sorted({key for run in runs for key in run.summary})
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([_harmless(one) for one in (*FACTS, *(shown_key(key, stage_of(runs)) for key in keys), *numbers)])
    for run in runs:
        own = what(run)
        values = [json.dumps(own[key]) if isinstance(own.get(key), dict | list) else own.get(key) for key in keys]
        facts = _facts(run)
        line = [*(facts[name] for name in FACTS), *values, *(run.summary.get(key, "") for key in numbers)]
        writer.writerow([one if isinstance(one, int | float) else _harmless(text(one, 1000)) for one in line])
    return file.getvalue()


def as_json(board: Board, title: str) -> str:
    content = {
        "kdrun": __version__,
        "title": title,
        "best": board.best,
        "differences": dict(board.differences),
        "settings": [_setting(row) for row in board.rows],
        "runs": [_run(run) for run in board.found.runs],
        "failed": [{"status": status, "what": what, "why": why} for status, what, why in board.failures],
    }
    return json.dumps(_plain(content), indent=2, default=str, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """With text as keys, and nothing in place of a number that is none: JSON knows no nan."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _setting(row: Any) -> dict[str, Any]:
    own = row.setting
    spreads = {key: own.spread(key) for key in sorted({key for run in own.runs for key in run.summary})}
    return {
        "name": own.name,
        "differs": own.words,
        "stage": own.first.stage,
        "data": own.first.data,
        "best_on_validation": row.best,
        "protocol": row.protocol,
        "n": len(own.runs),
        "missing": own.missing,
        "test_samples": own.samples,
        "numbers": {key: {"mean": one.mean, "sd": one.sd, "n": one.n} for key, one in spreads.items() if one},
        "runs": [str(run.path) for run in own.runs],
    }


def _run(run: Record) -> dict[str, Any]:
    return {
        **_facts(run),
        "reason": run.info.get("reason"),
        "lineage": dict(lineage(run)),
        "summary": dict(run.summary),
        "config": run.config,
        "history": run.history(),
        "confusion": run.document("confusion"),
        "calibration": run.document("details").get("calibration"),
    }


def _facts(run: Record) -> dict[str, Any]:
    info = run.info
    own = {"run": str(run.path), "status": run.status, "stage": run.stage, "data": run.data, "seed": run.seed}
    return {**own, "fingerprint": text(info.get("fingerprint")), "started": text(info.get("started"))}


def _cell(value: str) -> str:
    """A text that stays within its cell, and is no Markdown or HTML."""
    for mark in "\\`*_[]<>|#":
        value = value.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return value


def _harmless(value: str) -> str:
    return f"'{value}" if value.startswith(RISKY) else value
