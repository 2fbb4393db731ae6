"""What can be freed: states to go on from that nobody needs any more, and what cut-off writes left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from kdrun.errors import KdrunError, UsageError, brief
from kdrun.records.files import PART
from kdrun.records.runs import read_info, status
from kdrun.redact import redacted

STATES = ("last.pt", "previous.pt")


def freeable(
    folder: Path, unfinished: bool = False, left_alone: Callable[[str], object] = lambda told: None
) -> Iterator[Path]:
    """Files below a folder of runs, or in one run, that can go. A run somebody is at work in is left alone.

    From completed runs: the training state. `unfinished`: also from those that stopped, which can then not go on.
    `left_alone` is told of each run among others that is damaged, of which nothing goes.
    Raises `UsageError` when there is no such folder, `KdrunError` when it is itself a run that is damaged.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder")
    for run in sorted(file.parent for file in folder.rglob("run.json")):
        try:
            found = status(run, read_info(run))
        except KdrunError as error:
            if run == folder:
                raise
            left_alone(f"left alone: {brief(redacted(str(error)), 300)}")
            continue
        if found == "running":
            continue
        yield from sorted(part for part in run.rglob(f".*{PART}") if part.is_file() and not part.is_symlink())
        if found == "completed" or unfinished:
            here = run.resolve()
            states = (run / "checkpoints" / name for name in STATES)
            yield from (file for file in states if file.is_file() and file.resolve().is_relative_to(here))
