"""Two runs of one config, compared number by number, and the verdict in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMES = ("_seconds", "_per_second")  # endings of what no two runs share
EXACT, WITHIN, DIFFERENT = "EXACT", "WITHIN TOLERANCE", "DIFFERENT"
ENVIRONMENT = ("device", "versions", "platform", "git", "data", "result_version", "fingerprint")


@dataclass(frozen=True)
class Difference:
    """A number that is not the same to the last bit; `epoch` is the first of the training in which it differs."""

    metric: str
    recorded: Any
    got: Any
    epoch: int | None = None

    @property
    def size(self) -> float:
        """How far apart; infinite where one of the two is missing."""
        if self.recorded is None or self.got is None:
            return float("inf")
        return abs(self.got - self.recorded)


@dataclass(frozen=True)
class Verdict:
    """`word` is EXACT, WITHIN TOLERANCE or DIFFERENT; `text` the whole comparison for people."""

    word: str
    text: str


def compare(recorded: Path, got: Path, weights: float | None, tolerance: float | None = None) -> Verdict:
    """Compare two completed runs; `weights` is the largest difference between their models' weights, None without."""
    summary = list(_summaries(recorded, got))
    history = list(_histories(recorded, got))
    different = summary + history
    word = EXACT
    if different or weights:
        small = tolerance is not None and all(one.size <= tolerance for one in different)
        word = WITHIN if small else DIFFERENT
    lines = [*_table(summary, history, weights), *_surroundings(recorded, got)]
    return Verdict(word, "\n".join([*lines, _sentence(word, len(different), tolerance)]))


def _summaries(recorded: Path, got: Path) -> Iterator[Difference]:
    before, after = (json.loads((run / "summary.json").read_text()) for run in (recorded, got))
    yield from _numbers(before, after, None)


def _histories(recorded: Path, got: Path) -> Iterator[Difference]:
    """For each metric of the training, the first epoch in which it differs."""
    before, after = (_history(run) for run in (recorded, got))
    seen: set[str] = set()
    for epoch, split in sorted({**before, **after}):
        for one in _numbers(before.get((epoch, split), {}), after.get((epoch, split), {}), epoch):
            if f"{split} {one.metric}" not in seen:
                seen.add(f"{split} {one.metric}")
                yield Difference(f"{split} {one.metric}", one.recorded, one.got, epoch)


def _history(run: Path) -> dict[tuple[int, str], dict[str, Any]]:
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return {(line.pop("epoch"), line.pop("split")): line for line in lines}


def _numbers(before: Mapping[str, Any], after: Mapping[str, Any], epoch: int | None) -> Iterator[Difference]:
    for key in {**before, **after}:
        if not key.endswith(TIMES) and before.get(key) != after.get(key):
            yield Difference(key, before.get(key), after.get(key), epoch)


def _table(summary: list[Difference], history: list[Difference], weights: float | None) -> Iterator[str]:
    rows = [*summary, *history]
    if rows:
        width = max(len(one.metric) for one in rows)
        yield f"{'metric':<{width}}  {'recorded':>14}  {'got':>14}  {'difference':>10}  first epoch"
        for one in rows:
            numbers = "  ".join(f"{'none' if n is None else format(n, '.8g'):>14}" for n in (one.recorded, one.got))
            yield f"{one.metric:<{width}}  {numbers}  {one.size:>10.2g}  {one.epoch or ''}".rstrip()
    if weights is not None:
        yield "weights: equal to the last bit" if weights == 0 else f"weights: differ by up to {weights:.2g}"


def _surroundings(recorded: Path, got: Path) -> Iterator[str]:
    """What else is not the same: versions, hardware, threads, commit, data."""
    before, after = (json.loads((run / "run.json").read_text()) for run in (recorded, got))
    for key in ENVIRONMENT:
        yield from _unequal(before.get(key), after.get(key), key)


def _unequal(before: Any, after: Any, name: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from _unequal(before.get(key), after.get(key), f"{name}.{key}")
    elif before != after:
        yield f"environment: {name} was {before}, is {after}"


def _sentence(word: str, different: int, tolerance: float | None) -> str:
    if word == EXACT:
        return "EXACT: every number is the same"
    if word == WITHIN:
        return f"WITHIN TOLERANCE: no number differs by more than {tolerance:g}"
    return f"DIFFERENT: {different} numbers"
