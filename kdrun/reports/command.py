"""`kdrun report` and `kdrun compare`: from the words of the command line to a page, a table or a file."""

from __future__ import annotations

from pathlib import Path

from kdrun.errors import KdrunError, UsageError, brief, suggestion
from kdrun.records.files import write
from kdrun.records.foreign import read_text
from kdrun.reports.board import board
from kdrun.reports.comparison import compared
from kdrun.reports.formats import as_csv, as_json, as_markdown
from kdrun.reports.page import page
from kdrun.reports.reading import read_runs
from kdrun.words import option, refuse_empty, without_option

FORMATS = ("html", "md", "csv", "json")
USAGE = "usage: kdrun report <run, sweep or folder …> [--out FILE] [--format html|md|csv|json]"
MARK = "<title>kdrun report"  # what a page of ours has, and may be replaced for


def report(words: list[str]) -> str:
    """The report, written to a file or as the text to print; what to tell. Raises `KdrunError`."""
    places, out, form = _asked(words)
    content = board(read_runs(places))
    title = brief(", ".join(place.absolute().name or str(place) for place in places), 150)
    if form == "html":
        made = page(content, title)
    else:
        made = as_csv(content) if form == "csv" else {"md": as_markdown, "json": as_json}[form](content, title)
    if out is None and form != "html":
        return made.rstrip("\n")
    target = out or Path("report.html")
    _refuse_to_overwrite(target)
    write(target, made.encode())
    return f"{len(content.found.runs)} runs in {len(content.settings)} settings: {target}"


def compare(words: list[str]) -> str:
    """What differs between two or more runs or settings, as text. Raises `KdrunError`."""
    refuse_empty(words)
    if not words or any(word.startswith("-") for word in words):
        raise UsageError("usage: kdrun compare <run> <run> … (runs, sweeps or folders of them)")
    return compared(read_runs([Path(word) for word in words]))


def _asked(words: list[str]) -> tuple[list[Path], Path | None, str]:
    outs, forms = option(words, "--out"), option(words, "--format")
    rest = without_option(words, "--out", "--format")
    refuse_empty(rest)
    strange = [word for word in rest if word.startswith("-")]
    if strange or not rest:
        raise UsageError(f"unknown option {brief(strange[0])}; {USAGE}" if strange else USAGE)
    out = Path(outs[-1]) if outs else None
    form = forms[-1] if forms else _by_name(out)
    if form not in FORMATS:
        raise UsageError(f"--format {brief(form)}: there is no such format; {suggestion(form, FORMATS)}")
    return [Path(word) for word in rest], out, form


def _by_name(out: Path | None) -> str:
    ending = "" if out is None else out.suffix.removeprefix(".")
    return ending if ending in FORMATS else "html"


def _refuse_to_overwrite(target: Path) -> None:
    """A report may be made again in its place; whatever else is there stays."""
    if not target.exists():
        if not target.absolute().parent.is_dir():
            raise UsageError(f"--out {brief(target)}: there is no such folder")
        return
    try:
        ours = MARK in read_text(target, 50_000_000)[:2000]
    except KdrunError:
        ours = False
    if not ours:
        raise UsageError(f"{brief(target)} exists and is no report of kdrun's; nothing is overwritten: set --out")
