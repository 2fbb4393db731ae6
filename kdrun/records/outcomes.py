"""What the jobs of a sweep say of themselves, where they run far from the process that keeps the manifest.

One small file for each job in the sweep's folder, written by the worker that attends to the job and taken by the
process that waits for it: so it does not matter by which way an engine reports, or whether anybody was waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdrun.errors import KdrunError
from kdrun.records.files import read_json, write_json

FINAL = ("completed", "reused", "failed")  # nothing comes after these; one that was interrupted may be requeued
Outcome = dict[str, Any]  # status, and reason, run, fingerprint or code


class Outcomes:
    """Those of one sweep, by the keys of its jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "outcomes"

    def tell(self, key: str, outcome: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / f"{key}.json", dict(outcome))

    def heard(self) -> dict[str, Outcome]:
        """What is known by now. The folder is listed, since a shared one may remember that a file was not there."""
        found = {}
        for file in sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []:
            try:
                content = read_json(file)
            except KdrunError:
                continue  # taken away meanwhile, or not whole yet on a shared folder
            if isinstance(content, dict) and isinstance(content.get("status"), str):
                found[file.stem] = content
        return found

    def forget(self, key: str) -> None:
        """It is in the manifest now, or the job begins anew."""
        (self.folder / f"{key}.json").unlink(missing_ok=True)
