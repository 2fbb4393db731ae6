"""What there is to choose from, and what has been run: plain text, from the files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.errors import UsageError, brief, suggestion
from kdrun.records.foreign import read_text
from kdrun.redact import redacted

if TYPE_CHECKING:
    from kdrun.reports.reading import Record

KINDS = {"models": "model", "datasets": "dataset", "losses": "loss", "augments": "augment", "experiments": "experiment"}


def listing(kind: str | None, folders: Sequence[Path], output_dir: Path, words: Sequence[str] = ()) -> str:
    """The names of one kind with their first lines of comment, or a count of each kind. Raises `UsageError`.

    `words` are conditions on the runs.
    """
    if kind is None:
        counts = [f"  {name:<12} {len(_options(group, folders)):>4}" for name, group in KINDS.items()]
        return "\n".join(
            ["kdrun list <what>:", *counts, f"  {'runs':<12} {len(list(output_dir.glob('*/*/run.json'))):>4}"]
        )
    if kind == "runs":
        such = " such" if words else ""
        return "\n".join(runs(output_dir, words)) or (
            f"no{such} runs in {redacted(str(output_dir))}; `kdrun distill` makes one"
        )
    if kind not in KINDS:
        raise UsageError(f"kdrun list {brief(kind)}: there is no such list; {suggestion(kind, [*KINDS, 'runs'])}")
    options = _options(KINDS[kind], folders)
    width = max((len(name) for name in options), default=0)
    return "\n".join(f"{name:<{width}}  {about}" for name, about in sorted(options.items()))


def _options(group: str, folders: Sequence[Path]) -> dict[str, str]:
    files = [file for folder in folders for file in (folder / group).rglob("*.yaml")]
    return {_key(file, group): _comment(file) for file in files}


def _key(file: Path, group: str) -> str:
    parts = file.with_suffix("").parts
    return "/".join(parts[len(parts) - parts[::-1].index(group) :])


def _comment(file: Path) -> str:
    """The first line of comment that says something to people."""
    text = read_text(file, 1_000_000)
    lines = [brief(line.lstrip("# ").strip(), 300) for line in text.splitlines() if line.startswith("#")]
    return next((line for line in lines if not line.startswith("@package")), "")


def runs(output_dir: Path, words: Sequence[str] = ()) -> list[str]:
    """A line for each run for which the conditions hold, oldest first. Raises `UsageError`."""
    from kdrun.reports.filters import chosen
    from kdrun.reports.reading import BROKEN, Record, read_run

    found: dict[Path, Record | str] = {}
    for file in sorted(output_dir.glob("*/*/run.json"), key=lambda path: path.parent.name):
        try:
            found[file.parent] = read_run(file.parent)
        except BROKEN as error:
            found[file.parent] = brief(f"unreadable  {file.parent}  {type(error).__name__}", 1000)
    kept = {run.path for run in chosen([one for one in found.values() if isinstance(one, Record)], words)}
    return [
        one if isinstance(one, str) else _line(one)
        for path, one in found.items()
        if path in kept or (isinstance(one, str) and not words)
    ]


def _line(run: Record) -> str:
    accuracy, samples = run.summary.get("test/accuracy"), run.summary.get("test/samples")
    shown = "" if accuracy is None or samples is None else f"test accuracy {100 * accuracy:.2f} % (n = {samples:,.0f})"
    return brief(f"{run.status:<11} {run.path}  {shown}".rstrip(), 1000)
