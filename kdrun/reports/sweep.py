"""What a sweep found: its settings, with mean and standard deviation over seeds, and which is best on validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.errors import KdrunError, brief
from kdrun.records.files import read_json
from kdrun.records.manifest import DONE, read_jobs, without_seed
from kdrun.reports.settings import Spread, spread
from kdrun.reports.tables import aligned, shown_spread

COLUMNS = {"val accuracy": "val/accuracy", "test accuracy": "test/accuracy", "gain": "gain"}


@dataclass(frozen=True)
class Setting:
    """The jobs that differ in nothing but their seed."""

    words: str
    jobs: int
    summaries: Sequence[dict[str, Any]]

    def spread(self, key: str) -> Spread | None:
        return spread(one[key] for one in self.summaries if isinstance(one.get(key), int | float))

    @property
    def samples(self) -> int | None:
        """Of the test split; None where jobs differ in it, or do not say."""
        counts = {one.get("test/samples") for one in self.summaries}
        return counts.pop() if len(counts) == 1 else None


def settings(folder: Path) -> list[Setting]:
    """The settings of a sweep in the order of its jobs. Raises `KdrunError` when there is no such sweep."""
    jobs = read_jobs(folder)
    if not jobs:
        raise KdrunError(f"{folder} has no manifest.jsonl with jobs in it")
    return settings_of(jobs)


def settings_of(jobs: Iterable[dict[str, Any]]) -> list[Setting]:
    """Jobs that differ in nothing but their seed, taken together."""
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for job in jobs:
        grouped[without_seed(str(job["setting"]))].append(job)
    return [
        Setting(words or "as given", len(own), [_summary(job) for job in own if _is_done(job)])
        for words, own in grouped.items()
    ]


def results(folder: Path) -> str:
    """A table over the settings, what failed, and the best by validation with its test number beside it."""
    found = settings(folder)
    rows = [["setting", "n", "missing", *COLUMNS]]
    for one in found:
        cells = [shown_spread(key, one.spread(key)) for key in COLUMNS.values()]
        rows.append([brief(one.words), str(len(one.summaries)), str(one.jobs - len(one.summaries) or ""), *cells])
    return "\n".join([*aligned(rows), "", *_failures(folder), best(found), f"sweep: {folder}"])


def best(found: Sequence[Setting]) -> str:
    """The best on validation in a sentence, with its test number, how many seeds, and what may change it."""
    means = {at: one.mean for at, setting in enumerate(found) if (one := setting.spread("val/accuracy")) is not None}
    if not means:
        return "no setting is called best: there is no validation split to choose by"
    first = found[max(means, key=means.__getitem__)]
    equals = list(means.values()).count(max(means.values()))
    tied = f", the first of {equals} equals" if equals > 1 else ""
    missing = sum(one.jobs - len(one.summaries) for one in found)
    jobs = "1 job is" if missing == 1 else f"{missing} jobs are"
    warning = f" ({jobs} missing, which may change this)" if missing else ""
    told = [f"{name} {shown_spread(key, first.spread(key))}" for name, key in COLUMNS.items() if name != "gain"]
    seeds = f"{len(first.summaries)} seed{'s' if len(first.summaries) > 1 else ''}"
    samples = "unequal numbers of" if first.samples is None else f"{first.samples:,}"
    numbers = f"{', '.join(told)} (n = {seeds}, {samples} test samples)"
    return f"best on validation{tied}{warning}: {brief(first.words)}: {numbers}"


def _failures(folder: Path) -> list[str]:
    return [
        f"{job['status']}: {brief(job['setting'])}: {brief(job.get('reason') or 'no reason recorded', 200)}"
        for job in read_jobs(folder)
        if job["status"] not in DONE
    ]


def _is_done(job: dict[str, Any]) -> bool:
    return job["status"] in DONE and (Path(str(job.get("run"))) / "summary.json").exists()


def _summary(job: dict[str, Any]) -> dict[str, Any]:
    summary: dict[str, Any] = read_json(Path(str(job["run"])) / "summary.json")
    return summary
