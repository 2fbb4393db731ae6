"""What a sweep found: its settings, with mean and standard deviation over seeds, and which is best on validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.errors import KdrunError, brief
from kdrun.records.files import read_json
from kdrun.records.manifest import DONE, read_jobs
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


def settings(folder: Path) -> list[Setting]:
    """The settings of a sweep in the order of its jobs. Raises `KdrunError` when there is no such sweep."""
    jobs = read_jobs(folder)
    if not jobs:
        raise KdrunError(f"{folder} has no manifest.jsonl with jobs in it")
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for job in jobs:
        words = " ".join(word for word in str(job["setting"]).split() if not word.startswith("seed="))
        grouped[words].append(job)
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
    return "\n".join([*aligned(rows), "", *_failures(folder), _best(found), f"sweep: {folder}"])


def _best(found: Sequence[Setting]) -> str:
    means = {at: one.mean for at, setting in enumerate(found) if (one := setting.spread("val/accuracy")) is not None}
    if not means:
        return "no setting is called best: there is no validation split to choose by"
    best = found[max(means, key=means.__getitem__)]
    missing = sum(one.jobs - len(one.summaries) for one in found)
    warning = f" ({missing} jobs are missing, which may change this)" if missing else ""
    told = [f"{name} {shown_spread(key, best.spread(key))}" for name, key in COLUMNS.items() if name != "gain"]
    return f"best on validation{warning}: {brief(best.words)}: {', '.join(told)}, n = {len(best.summaries)}"


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
