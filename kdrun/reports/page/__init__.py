"""One self-contained page: no network, all that comes from a run escaped, one script that the page's policy knows.

Needs the extra `kdrun[report]`: jinja2 and matplotlib.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from kdrun import __version__
from kdrun.errors import UsageError, brief
from kdrun.reports.advice import advice
from kdrun.reports.board import COLUMNS, Board, Row, lineage, number_of
from kdrun.reports.outcome import verdict
from kdrun.reports.page.figures import Figure, Section, run_figures, sections
from kdrun.reports.page.gallery import Sample, gallery
from kdrun.reports.reading import Record
from kdrun.reports.settings import shown_key, shown_value, what

HERE = Path(__file__).parent
MOST_SHOWN = 8  # settings with figures of their own


@dataclass(frozen=True)
class Shown:
    """A run with its figures, in a part of the page that opens."""

    anchor: str
    title: str
    path: str
    verdict: Sequence[str]
    figures: Sequence[Figure]
    lineage: Sequence[tuple[str, str]]
    disagree: str = ""
    gallery: Sequence[Sample] = field(default_factory=list)


def page(board: Board, title: str) -> str:
    """The report as HTML. Raises `UsageError` where jinja2 or matplotlib is missing."""
    try:
        from jinja2 import Environment, FileSystemLoader
        from markupsafe import Markup

        from kdrun.reports.charts import Figures

        figures = Figures()
    except ImportError as error:
        raise UsageError(f"a report in HTML needs {error.name}; install it: pip install 'kdrun[report]'") from error
    script, style = (Markup((HERE / name).read_text()) for name in ("report.js", "report.css"))
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    made = list(sections(board, figures))
    shown = [_shown(row, number, figures) for number, row in enumerate(board.rows[:MOST_SHOWN])]
    differences = board.differences
    return environment.get_template("report.html").render(
        board=board,
        title=brief(title, 200),
        counted=_counted(board),
        version=__version__,
        date=datetime.now().strftime("%Y-%m-%d %H:%M"),
        style=style,
        script=script,
        script_hash=policy_hash(str(script)),
        columns=COLUMNS,
        facts=_facts(board.rows),
        anchors={number: one.anchor for number, one in enumerate(shown)},
        sections=made,
        shown=shown,
        contents=list(_contents(board, made, shown, differences)),
        differences=differences,
    )


def policy_hash(script: str) -> str:
    """What a content-security policy allows a script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _shown(row: Row, number: int, figures: Any) -> Shown:
    run = row.setting.first
    told, samples = gallery(run)
    return Shown(
        anchor=f"run-{number + 1}",
        title=f"{row.setting.name} (seed {brief(run.seed, 20)})",
        path=str(run.path),
        verdict=_verdict(run),
        figures=list(run_figures(run, figures)),
        lineage=lineage(run),
        disagree=told,
        gallery=samples,
    )


def _verdict(run: Record) -> list[str]:
    try:
        return [brief(one, 400) for one in [*verdict(run.info, run.summary), *advice(run)]]
    except (KeyError, TypeError, ValueError, AttributeError):  # a record of somebody else's, without what it is about
        return []


def _facts(rows: Sequence[Row]) -> list[str]:
    """What the filter looks at, as JSON: first what is the same in all rows, then the rest for each."""
    known = [_facts_of(row) for row in rows]
    common = (
        {key: value for key, value in known[0].items() if all(one.get(key) == value for one in known)} if known else {}
    )
    rest = [{key: value for key, value in one.items() if key not in common} for one in known]
    return [json.dumps(one) for one in (common, *rest)]


def _facts_of(row: Row) -> dict[str, str]:
    """The config by key, as it is typed, and the means of the numbers shown."""
    run, setting = row.setting.first, row.setting
    facts: dict[str, Any] = {shown_key(key, run.stage): shown_value(value) for key, value in what(run).items()}
    facts |= {key: one.mean for key in (number_of(setting, key) for _, key in COLUMNS) if (one := setting.spread(key))}
    facts |= {"stage": run.stage, "dataset": run.data, "n": len(setting.runs), "missing": setting.missing}
    facts |= {"best": "yes" if row.best else "no"}
    return {key.lower(): str(value).lower() for key, value in facts.items()}


def _counted(board: Board) -> str:
    found = board.found
    counts: dict[str, int] = {}
    for run in found.runs:
        counts[run.status] = counts.get(run.status, 0) + 1
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    more = f"; {len(found.unreadable)} unreadable" if found.unreadable else ""
    return f"{len(found.runs)} runs ({told}) in {len(board.settings)} settings{more}"


def _contents(board: Board, made: Sequence[Section], shown: Sequence[Shown], differences: Sequence[Any]) -> Any:
    yield from ((section.title, section.anchor) for section in made)
    yield from [("Runs", "runs")] if shown else []
    yield from [("Differences of config", "differences")] if differences else []
    yield from [("What failed", "failed")] if board.failures else []
