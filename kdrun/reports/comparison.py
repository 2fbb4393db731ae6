"""Settings held against each other: what differs in their configs, and in their numbers, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

from kdrun.errors import KdrunError, UsageError, brief
from kdrun.reports.reading import Found, Record
from kdrun.reports.settings import (
    Setting,
    differing_keys,
    measured,
    settings_of,
    shown_key,
    shown_value,
    stage_of,
    what,
)
from kdrun.reports.tables import aligned, shown_difference, shown_number

CONFIDENCE = 0.95
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SHARES = ("accuracy", "top5", "agreement")  # of samples: for these the test split alone gives an interval
NUMBERS = (
    *("val/accuracy", "test/accuracy", "test/top5", "test/nll", "test/ece", "test/agreement", "test/kl"),
    *("generalisation_gap", "teacher/test/accuracy", "alone/test/accuracy", "gain", "gap_closed"),
    *("student/parameters", "student/flops", "student/latency_p50_seconds", "model/parameters", "model/flops"),
)


@dataclass(frozen=True)
class Difference:
    """`setting - reference` of one number. The interval is over `pairs` seeds, or, with one pair, over test samples."""

    key: str
    mean: float
    low: float | None
    high: float | None
    pairs: int
    over: str  # what the interval is over: "seeds", "test samples", or ""

    @property
    def is_clear(self) -> bool:
        """Does the interval leave zero out?"""
        known = self.low is not None and self.high is not None and self.low < self.high  # as in no two seeds alike
        return known and not (self.low or 0.0) <= 0 <= (self.high or 0.0)


def differences(reference: Setting, other: Setting) -> list[Difference]:
    """Every number that both have, over the seeds that both have."""
    ours = {str(run.seed): run for run in reference.runs}
    theirs = {str(run.seed): run for run in other.runs}
    seeds = [seed for seed in ours if seed in theirs]
    found = []
    for key in NUMBERS:
        pairs = [(ours[seed], theirs[seed]) for seed in seeds]
        known = [(one, two) for one, two in pairs if key in one.summary and key in two.summary]
        pairs = list({(measured(one, key), measured(two, key)): (one, two) for one, two in known}.values())
        if pairs:
            found.append(_difference(key, pairs))
    return found


def _difference(key: str, pairs: Sequence[tuple[Record, Record]]) -> Difference:
    values = [two.summary[key] - one.summary[key] for one, two in pairs]
    middle = mean(values)
    if len(values) > 1:
        half = _quantile(len(values) - 1) * stdev(values) / sqrt(len(values))
        return Difference(key, middle, middle - half, middle + half, len(values), "seeds")
    half_of_samples = _of_the_samples(key, *pairs[0])
    if half_of_samples is None:
        return Difference(key, middle, None, None, 1, "")
    return Difference(key, middle, middle - half_of_samples, middle + half_of_samples, 1, "test samples")


def _quantile(freedom: int) -> float:
    """Of Student's t, two-sided."""
    from scipy.special import stdtrit  # a quarter of a second

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def _of_the_samples(key: str, *runs: Record) -> float | None:
    """Half the interval of a difference of two shares of the test split, as if their errors were independent."""
    counts = [run.summary.get("test/samples", 0) for run in runs]
    if not key.startswith("test/") or not key.endswith(SHARES) or not all(counts):
        return None
    variances = (run.summary[key] * (1 - run.summary[key]) / n for run, n in zip(runs, counts, strict=True))
    return 1.96 * sqrt(sum(variances))


def compared(found: Found) -> str:
    """The comparison as text: the first setting is what the others are held against. Raises `KdrunError`."""
    settings = settings_of(found)
    if len(settings) < 2:
        raise KdrunError(_too_few(found, len(settings)))
    if len(settings) > len(LETTERS):
        told = f"{len(settings)} settings are more than a comparison can show, which is {len(LETTERS)}"
        raise UsageError(f"{told}; `kdrun report` has a table of all, `kdrun list runs key=value` finds fewer")
    reference, others = settings[0], settings[1:]
    lines = [f"{letter}: {_titled(one)}" for letter, one in zip(LETTERS, settings, strict=False)]
    lines += ["", *_configs(settings)]
    for letter, other in zip(LETTERS[1:], others, strict=False):
        lines += ["", f"{letter} - A, paired by seed; shares in points:", *_numbers(reference, other, letter)]
    return "\n".join([*lines, *_warnings(settings)])


def _too_few(found: Found, settings: int) -> str:
    states = ", ".join(sorted({run.status for run in found.runs})) or "unreadable"
    told = f"there is nothing to compare: {len(found.runs)} runs ({states}) make {settings} settings with test numbers"
    return f"{told}; runs that differ in their seed alone are one setting"


def _titled(one: Setting) -> str:
    seeds = ", ".join(sorted({str(run.seed) for run in one.runs}))
    more = f" and {len(one.runs) - 1} more" if len(one.runs) > 1 else ""
    return f"{brief(one.name, 300)}  (n = {len(one.runs)}, seed {seeds}; {one.first.path}{more})"


def _configs(settings: Sequence[Setting]) -> list[str]:
    firsts = [one.first for one in settings]
    rows = [
        [shown_key(key, stage_of(firsts)), *(shown_value(what(run).get(key)) for run in firsts)]
        for key in differing_keys(firsts)
        if key != "stage" or len({run.stage for run in firsts}) > 1
    ]
    if not rows:
        return ["their configs do not differ, apart from places; their data does"]
    return aligned([["config", *LETTERS[: len(settings)]], *rows])


def _numbers(reference: Setting, other: Setting, letter: str) -> list[str]:
    found = differences(reference, other)
    if not found:
        return ["no seed and number that both have"]
    rows = [["", "A", letter, "difference", f"{CONFIDENCE:.0%} interval", "over", ""]]
    for one in found:
        spreads = (reference.spread(one.key), other.spread(one.key))
        means = [shown_number(one.key, spread.mean) if spread else "" for spread in spreads]
        interval = "" if one.low is None or one.high is None or one.low == one.high else _interval(one)
        over = f"{one.pairs} seeds" if one.over == "seeds" else one.over
        rows.append([one.key, *means, shown_difference(one.key, one.mean), interval, over, "*" if one.is_clear else ""])
    return [*aligned(rows), "*: the interval leaves zero out"] if any(one.is_clear for one in found) else aligned(rows)


def _interval(one: Difference) -> str:
    low, high = (shown_difference(one.key, value) for value in (one.low or 0.0, one.high or 0.0))
    return f"{low} … {high}"


def _warnings(settings: Sequence[Setting]) -> list[str]:
    told = []
    if len({one.first.data for one in settings}) > 1:
        told.append("the settings are of different data sets: their numbers are not measured on the same samples")
    if any(len(one.runs) < 2 for one in settings):
        told.append("n = 1: how much a setting varies from seed to seed is not known; intervals are over test samples")
    missing = sum(one.missing for one in settings)
    if missing:
        told.append(f"{missing} runs of these settings did not complete, which may change this")
    return ["", *told] if told else []
