"""Two runs of one config, compared number by number, and the verdict in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from kdrun.errors import brief
from kdrun.records.files import read_json
from kdrun.records.runs import read_numbers

TIMES = ("_seconds", "_per_second")  # endings of what no two runs share
EXACT, WITHIN, DIFFERENT = "EXACT", "WITHIN TOLERANCE", "DIFFERENT"
Epochs = dict[tuple[int, str], dict[str, Any]]  # numbers by epoch and split
ENVIRONMENT = ("device", "versions", "platform", "git", "data", "result_version", "fingerprint", "teacher_weights")


@dataclass(frozen=True)
class Difference:
    """A number that is not the same to the last bit; `epoch` is the first of the training in which it differs."""

    metric: str
    recorded: Any
    got: Any
    epoch: int | None = None

    @property
    def size(self) -> float:
        """How far apart; infinite where one of the two is missing, or a word."""
        sound = all(isinstance(one, int | float) for one in (self.recorded, self.got))
        return abs(self.got - self.recorded) if sound else float("inf")


@dataclass(frozen=True)
class Verdict:
    """`word` is EXACT, WITHIN TOLERANCE or DIFFERENT; `text` the whole comparison for people."""

    word: str
    text: str


def compare(recorded: Path, got: Path, weights: float | None, tolerance: float | None = None) -> Verdict:
    """Compare two completed runs; `weights` is the largest difference between their models' weights, None without.

    The tolerance is one of the numbers: weights that end elsewhere are said beside it, and are DIFFERENT only when
    they are not those of the same network, or not finite. Raises `KdrunError` when the numbers of one cannot be read.
    """
    (before, lines_before), (after, lines_after) = (read_numbers(run) for run in (recorded, got))
    summary = list(_numbers(before, after, None))
    history = list(_histories(_by_epoch(lines_before), _by_epoch(lines_after)))
    different = summary + history
    word = EXACT
    if different or weights:
        small = tolerance is not None and all(one.size <= tolerance for one in different)
        word = WITHIN if small and (weights is None or isfinite(weights)) else DIFFERENT
    lines = [*_table(summary, history, weights), *_surroundings(recorded, got)]
    return Verdict(word, "\n".join([*lines, _sentence(word, len(different), weights, tolerance)]))


def _histories(before: Epochs, after: Epochs) -> Iterator[Difference]:
    """For each metric of the training, the first epoch in which it differs."""
    seen: set[str] = set()
    for epoch, split in sorted({**before, **after}):
        for one in _numbers(before.get((epoch, split), {}), after.get((epoch, split), {}), epoch):
            if f"{split} {one.metric}" not in seen:
                seen.add(f"{split} {one.metric}")
                yield Difference(f"{split} {one.metric}", one.recorded, one.got, epoch)


def _by_epoch(lines: Iterable[dict[str, Any]]) -> Epochs:
    return {(line.pop("epoch"), line.pop("split")): line for line in lines}


def _numbers(before: Mapping[str, Any], after: Mapping[str, Any], epoch: int | None) -> Iterator[Difference]:
    for key in {**before, **after}:
        if not key.endswith(TIMES) and before.get(key) != after.get(key):
            yield Difference(key, before.get(key), after.get(key), epoch)


def _table(summary: list[Difference], history: list[Difference], weights: float | None) -> Iterator[str]:
    rows = [*summary, *history]
    if rows:
        width = max(len(brief(one.metric)) for one in rows)
        yield f"{'metric':<{width}}  {'recorded':>14}  {'got':>14}  {'difference':>10}  first epoch"
        for one in rows:
            numbers = "  ".join(f"{_shown(n):>14}" for n in (one.recorded, one.got))
            yield f"{brief(one.metric):<{width}}  {numbers}  {one.size:>10.2g}  {one.epoch or ''}".rstrip()
    if weights is not None:
        yield _of_weights(weights)


def _of_weights(weights: float) -> str:
    if weights == 0:
        return "weights: equal to the last bit"
    if not isfinite(weights):
        return "weights: not those of the same network, or not finite"
    return f"weights: differ by up to {weights:.2g}"


def _shown(value: Any) -> str:
    if isinstance(value, int | float):
        return format(value, ".8g")
    return "none" if value is None else brief(value)


def _surroundings(recorded: Path, got: Path) -> Iterator[str]:
    """What else is not the same: versions, hardware, threads, commit, data."""
    before, after = (read_json(run / "run.json") for run in (recorded, got))
    for key in ENVIRONMENT:
        yield from _unequal(before.get(key), after.get(key), key)


def _unequal(before: Any, after: Any, name: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from _unequal(before.get(key), after.get(key), f"{name}.{key}")
    elif before != after:
        yield f"environment: {brief(name)} was {brief(before)}, is {brief(after)}"


def _sentence(word: str, different: int, weights: float | None, tolerance: float | None) -> str:
    if word == EXACT:
        return "EXACT: every number is the same"
    if word == WITHIN:
        elsewhere = f"; {_of_weights(weights)}, which no tolerance is for" if weights else ""
        return f"WITHIN TOLERANCE: no number differs by more than {tolerance:g}{elsewhere}"
    return f"DIFFERENT: {different} numbers{' and the weights' if weights else ''}"
