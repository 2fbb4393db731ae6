"""Runs as they lie on disk, wherever they came from: read as data, and what cannot be read is told, not raised."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kdrun.errors import KdrunError, UsageError, brief
from kdrun.records.foreign import read_json, read_text, read_yaml
from kdrun.records.manifest import DONE, read_jobs, seed_of, without_seed
from kdrun.records.runs import read_info, status
from kdrun.words import by_key

MOST_RUNS = 5000
MOST_OF_A_HISTORY = 20_000_000  # bytes
MOST_OF_A_PATH = 4096  # characters
BROKEN = (KdrunError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Record:
    """A run: what its `run.json` says, its status, and its numbers. The rest is read when it is asked for."""

    path: Path
    info: Mapping[str, Any]
    status: str
    summary: Mapping[str, float]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The saved config; empty where there is none that can be read."""
        try:
            return read_yaml(self.path / "config.yaml")
        except BROKEN:
            return {}

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The saved config by dotted key; a convex loss as it is typed: `loss`, `loss.alpha`, `loss.temperature`."""
        return dict(by_key(_as_typed(self.config)))

    @property
    def stage(self) -> str:
        return text(self.info.get("stage"))

    @property
    def data(self) -> str:
        """The name of the data set."""
        return text(mapping(self.info.get("data")).get("name"))

    @property
    def seed(self) -> Any:
        return mapping(self.info.get("seeds")).get("seed", 0)

    def history(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` that can be read, in their order."""
        try:
            lines = read_text(self.path / "metrics.jsonl", MOST_OF_A_HISTORY).splitlines()
            found = [json.loads(line) for line in lines]
        except BROKEN:
            return []
        return [line for line in found if isinstance(line, dict) and isinstance(line.get("epoch"), int)]

    def document(self, name: str) -> dict[str, Any]:
        """A further JSON file of the run; empty where there is none that can be read."""
        try:
            return mapping(read_json(self.path / f"{name}.json", 50_000_000))
        except BROKEN:
            return {}


@dataclass
class Found:
    """What was read: runs in order of time, the jobs of sweeps that have no completed run, and what is unreadable."""

    runs: list[Record] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    absent: dict[Path, set[str]] = field(default_factory=dict)  # seeds of jobs without a run, by a run of their setting

    @property
    def completed(self) -> list[Record]:
        return [run for run in self.runs if run.status == "completed"]


def read_runs(places: Sequence[Path]) -> Found:
    """The runs of run directories, sweeps, and folders of either. Raises `UsageError` when there is none.

    A run that a place names twice is read once; a damaged one is told in `unreadable`.
    """
    found, seen = Found(), set[Path]()
    for path in _run_directories(places, found):
        if path.resolve() in seen or len(seen) >= MOST_RUNS:
            continue
        seen.add(path.resolve())
        try:
            found.runs.append(read_run(path))
        except BROKEN as error:
            found.unreadable.append(brief(f"{path}: {error or type(error).__name__}", 300))
    if not found.runs and not found.jobs and not found.unreadable:
        raise UsageError(f"there are no runs in {brief(', '.join(map(str, places)))}; `kdrun list runs` shows some")
    found.runs.sort(key=lambda run: text(run.info.get("started")))
    return found


def read_run(path: Path) -> Record:
    """One run. Raises `KdrunError`, or another of `BROKEN`, when it is damaged."""
    info = read_info(path)
    summary = path / "summary.json"
    numbers = read_json(summary) if summary.exists() else {}
    return Record(path, info, status(path, info), dict(_numbers(numbers)))


def _run_directories(places: Iterable[Path], found: Found) -> Iterator[Path]:
    for place in places:
        if not place.is_dir():
            raise UsageError(
                f"{brief(place)}: there is no such folder; give run directories, sweeps, or folders of them"
            )
        if (place / "run.json").exists():
            yield place
        elif (place / "manifest.jsonl").exists():
            yield from _of_a_sweep(place, found)
        else:
            depths = ("*", "*/*", "*/*/*")
            yield from sorted({file.parent for depth in depths for file in place.glob(f"{depth}/run.json")})
            for sweep in sorted({file.parent for depth in depths for file in place.glob(f"{depth}/manifest.jsonl")}):
                yield from _of_a_sweep(sweep, found)


def _of_a_sweep(folder: Path, found: Found) -> Iterator[Path]:
    """The runs of a sweep's jobs, also where the whole folder of outputs has been moved."""
    try:
        jobs = read_jobs(folder)
    except KdrunError as error:
        found.unreadable.append(brief(error, 300))
        return
    runs = [_run_of(job, folder) for job in jobs]
    there: dict[str, Path] = {}
    for job, run in zip(jobs, runs, strict=True):
        if run is not None:
            there.setdefault(without_seed(str(job["setting"])), run)
            yield run
        if job["status"] not in DONE:
            found.jobs.append(job)
        elif run is None:
            found.jobs.append({**job, "status": "missing", "reason": "it was done, and its run is no longer there"})
    for job, run in zip(jobs, runs, strict=True):
        beside = there.get(without_seed(str(job["setting"])))
        if run is None and beside is not None:
            found.absent.setdefault(beside.resolve(), set()).add(seed_of(str(job["setting"])))


def _run_of(job: Mapping[str, Any], folder: Path) -> Path | None:
    if not job.get("run"):
        return None
    run = Path(text(job["run"], MOST_OF_A_PATH))
    beside = folder.absolute().parents[1] / Path(*run.parts[-2:])
    return next((path for path in (run, beside) if (path / "run.json").exists()), None)


# ---------------------------------------------------------------------------------------------- values, of any kind


def text(value: Any, most: int = 200) -> str:
    """A value of a file as one printable line."""
    return brief("" if value is None else value, most)


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    """A value of a file where it is a number that counts."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if usable else None


def _numbers(values: Any) -> Iterator[tuple[str, float]]:
    for key, value in mapping(values).items():
        found = number(value)
        if found is not None:
            yield str(key), found


def _as_typed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A convex loss in its short form, as people write it and sweep it."""
    loss = mapping(config.get("loss"))
    terms, task = mapping(loss.get("terms")), mapping(loss.get("task"))
    if len(terms) != 1:
        return dict(config)
    ((name, term),) = terms.items()
    alpha, rest = number(mapping(term).get("weight")), number(task.get("weight"))
    if alpha is None or rest is None or abs(alpha + rest - 1) > 1e-9 or mapping(term).get("kind") != name:
        return dict(config)
    own = {key: value for key, value in term.items() if key not in ("kind", "weight")}
    other = {key: value for key, value in task.items() if key != "weight"}
    return {**config, "loss": {"kind": name, "alpha": alpha, **own, "task": other}}
