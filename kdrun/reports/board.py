"""The contents of a report, before any format: rows of the leaderboard, what is best and by what, what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.errors import brief
from kdrun.reports.reading import Found, Record, mapping, text
from kdrun.reports.settings import (
    Setting,
    best_on_validation,
    comparable,
    differing_keys,
    settings_of,
    shown_key,
    shown_value,
    stage_of,
    what,
)
from kdrun.reports.tables import shown_spread

MOST_VALUES = 12  # of a key that differs
COLUMNS = (  # heading, number of the summary; `role` is the student of a distillation, else the model
    ("val accuracy", "val/accuracy"),
    ("test accuracy", "test/accuracy"),
    ("student alone", "alone/test/accuracy"),
    ("teacher", "teacher/test/accuracy"),
    ("gain", "gain"),
    ("gap closed", "gap_closed"),
    ("agreement", "test/agreement"),
    ("NLL", "test/nll"),
    ("ECE", "test/ece"),
    ("parameters", "{role}/parameters"),
    ("FLOPs", "{role}/flops"),
    ("latency", "{role}/latency_p50_seconds"),
)


@dataclass(frozen=True)
class Row:
    """A setting in the leaderboard; `best` is said of the first on validation among those it can be ranked with."""

    setting: Setting
    best: bool
    cells: list[tuple[str, float | None]]  # as shown, and to sort by

    @property
    def protocol(self) -> str:
        """How its epoch was chosen."""
        run = self.setting.first
        if "val/accuracy" not in run.summary:
            return "last epoch; no validation split"
        return "best epoch on validation" if run.flat.get("select") == "best" else "last epoch"


@dataclass(frozen=True)
class Board:
    """All that a report says."""

    found: Found
    settings: list[Setting]
    rows: list[Row]
    best: list[str]  # a sentence for each stage and data set
    failures: list[tuple[str, str, str]]  # status, what, why

    @property
    def differences(self) -> list[tuple[str, str]]:
        """The keys in which the settings' configs differ, and the values there are."""
        firsts = [one.first for one in self.settings]
        rows = []
        for key in differing_keys(firsts):
            values = list(dict.fromkeys(shown_value(what(run).get(key)) for run in firsts))
            more = f", … ({len(values)} in all)" if len(values) > MOST_VALUES else ""
            rows.append((shown_key(key, stage_of(firsts)), ", ".join(values[:MOST_VALUES]) + more))
        return rows


def board(found: Found) -> Board:
    settings = settings_of(found)
    groups = comparable(settings)
    bests = {group: best_on_validation(own) for group, own in groups.items() if group[0] != "evaluate"}
    chosen = [one for one in bests.values() if one is not None]
    rows = [Row(one, any(one is best for best in chosen), _cells(one)) for one in settings]
    rows.sort(key=lambda row: (row.setting.first.stage != "distill", -_rank(row.setting)))
    failures = list(_failures(found))
    lost = sum(status != "pruned" for status, _, _ in failures)
    said = [_best(group, groups[group], best, lost) for group, best in bests.items()]
    return Board(found, settings, rows, said, failures)


def number_of(setting: Setting, key: str) -> str:
    """The key of a summary that holds a cost of the student, or of the model where there is no teacher."""
    return key.replace("{role}", "student" if setting.first.stage == "distill" else "model")


def _cells(setting: Setting) -> list[tuple[str, float | None]]:
    cells = []
    for _, key in COLUMNS:
        found = setting.spread(number_of(setting, key))
        other = "" if found is None or found.n == len(setting.runs) else f" (n = {found.n})"
        cells.append((f"{shown_spread(key, found)}{other}", None if found is None else found.mean))
    return cells


def _rank(setting: Setting) -> float:
    found = setting.spread("val/accuracy")
    return -1.0 if found is None else found.mean


def _best(group: tuple[str, str], own: Sequence[Setting], best: Setting | None, failures: int) -> str:
    stage, data = group
    where = f"{stage} on {data}"
    if best is None:
        return f"{where}: no setting is called best: there is no validation split to choose by"
    missing = sum(one.missing for one in own)
    equals = sum(_rank(one) == _rank(best) for one in own)
    short = f", {missing} of whose seeds are missing" if missing else ""
    among = f"{len(own)} settings{short}" if len(own) > 1 else f"the only setting{short}"
    numbers = f"validation accuracy {_said(best, 'val/accuracy')}, test accuracy {_said(best, 'test/accuracy')}"
    samples = f"{best.samples:,}" if best.samples else "unequal numbers of"
    seeds = f"n = {len(best.runs)} seed{'s' if len(best.runs) > 1 else ''}"
    warning = f"; {failures} jobs or runs did not complete, which may change this" if failures else ""
    name, counts = brief(best.name, 300), f"({seeds}, {samples} test samples)"
    first = f", the first of {equals} equals" if equals > 1 else ""
    return f"{where}: best on validation, of {among}{first}: {name}: {numbers} {counts}{warning}"


def _said(setting: Setting, key: str) -> str:
    return shown_spread(key, setting.spread(key))


def _failures(found: Found) -> Any:
    pruned = {_end(job.get("run")): job for job in found.jobs if job["status"] == "pruned"}
    known = set()
    for run in found.runs:
        if _end(run.path) in pruned:
            known.add(_end(run.path))
            job = pruned[_end(run.path)]
            yield "pruned", text(job["setting"]), text(job.get("reason"))
        elif run.status not in ("completed", "running"):
            known.add(_end(run.path))
            yield run.status, str(run.path), text(run.info.get("reason") or "no reason recorded", 400)
    for job in found.jobs:
        if _end(job.get("run")) not in known:
            yield text(job["status"]), text(job["setting"]), text(job.get("reason") or "no reason recorded", 400)
    for one in found.unreadable:
        yield "unreadable", one, ""


def _end(run: Any) -> tuple[str, ...]:
    """Stage and name of a run, which are the same from whatever folder one looks."""
    return Path(str(run)).parts[-2:] if run else ()


def lineage(run: Record) -> list[tuple[str, str]]:
    """Where a run comes from: its parents, its commit, what it ran on."""
    info = run.info
    rows = [
        (text(one.get("role")), text(one.get("run") or one.get("checkpoint"))) for one in _mappings(info.get("parents"))
    ]
    rows.append(("checkpoint", _checkpoint(run)))
    git, device = mapping(info.get("git")), mapping(info.get("device"))
    if git:
        dirty = ", and what code.diff says" if git.get("dirty") else ""
        rows.append(("commit of kdrun", f"{text(git.get('commit'), 12)}{dirty}"))
    rows.append(("fingerprint", text(info.get("fingerprint"), 16)))
    rows.append(("device", ", ".join(text(device.get(key)) for key in ("name", "precision") if device.get(key))))
    rows.append(("threads", text(device.get("threads"))))
    rows.append(("versions", ", ".join(f"{text(k)} {text(v)}" for k, v in mapping(info.get("versions")).items())))
    command = info.get("command")
    rows.append(("command", text(" ".join(map(str, command)) if isinstance(command, list) else command, 1000)))
    rows.append(("started", text(info.get("started"))))
    return [(name, value) for name, value in rows if value]


def _checkpoint(run: Record) -> str:
    """The file that is deployed, and of which epoch its weights are."""
    epoch, epochs = run.info.get("chosen_epoch"), run.flat.get("epochs")
    if run.status != "completed" or epoch is None:
        return ""
    how = "best on validation" if run.flat.get("select") == "best" else "the last one"
    return f"checkpoints/model.pt, of epoch {text(epoch, 20)} of {text(epochs, 20)}, {how}"


def _mappings(values: Any) -> list[dict[str, Any]]:
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []
