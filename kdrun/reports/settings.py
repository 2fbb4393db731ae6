"""Runs that differ in nothing but their seed, taken together: mean, standard deviation, how many, how many missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from kdrun.records.manifest import of_the_job
from kdrun.reports.reading import Found, Record, mapping, text

NOTHING = "–"
ROLES = ("teacher", "alone")  # other trainings that a distillation's summary has numbers of
TIMES = ("_seconds", "_per_second")  # are of each run, whatever was measured
BEFORE_WORDS = "kind"  # of a node: `teacher.kind=mlp` is written `teacher=mlp`
MODELS = (f"teacher.{BEFORE_WORDS}", f"model.{BEFORE_WORDS}")


@dataclass(frozen=True)
class Spread:
    """A number over runs: its mean, its standard deviation where there are two or more, and how many there are."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Setting:
    """Runs of one config apart from the seed. `words` say what sets it apart from the others."""

    words: dict[str, str]
    runs: list[Record]  # completed
    missing: int  # seeds that were begun or planned, and not completed

    @property
    def name(self) -> str:
        told = [
            f"{short}={value}" for short, value in zip(shortened(list(self.words)), self.words.values(), strict=True)
        ]
        return " ".join(word for word in told if not word.endswith(f"={NOTHING}")) or models(self.first)

    @property
    def first(self) -> Record:
        return self.runs[0]

    def spread(self, key: str) -> Spread | None:
        """Of a number of the summaries; None where no run has it. Runs with one teacher have one number of it."""
        return spread({measured(run, key): run.summary[key] for run in self.runs if key in run.summary}.values())

    @property
    def samples(self) -> int | None:
        """Of the test split; None where runs differ in it, or do not say."""
        counts = {run.summary.get("test/samples") for run in self.runs}
        (count,) = counts if len(counts) == 1 else (None,)
        return None if count is None else int(count)


def measured(run: Record, key: str) -> str:
    """Which training a number of a run's summary is of: its own, or that of its teacher or baseline."""
    role = key.partition("/")[0]
    if role not in ROLES or key.endswith(TIMES):
        return str(run.path)
    parents = run.info.get("parents")
    own = [one for one in parents if mapping(one).get("role") == role] if isinstance(parents, list) else []
    names = [text(own[0].get(name)) for name in ("fingerprint", "run", "checkpoint")] if own else []
    return next(filter(None, names), str(run.path))


def spread(values: Iterable[float]) -> Spread | None:
    found = list(values)
    return Spread(mean(found), stdev(found) if len(found) > 1 else None, len(found)) if found else None


def what(run: Record) -> dict[str, Any]:
    """The flat config of a run without its seed and without where and how it was carried out."""
    own = of_the_job(run.flat.items())
    return {"stage": run.stage, **{key: value for key, value in own.items() if key not in ("seed", "dataset.path")}}


def settings_of(found: Found) -> list[Setting]:
    """The settings that have a completed run with a number of the test split, in the order of their first run."""
    grouped: dict[str, list[Record]] = {}
    for run in found.runs:
        grouped.setdefault(identity(run), []).append(run)
    complete = [runs for runs in grouped.values() if any(_is_measured(run) for run in runs)]
    told: dict[tuple[str, str], list[list[Record]]] = {}
    for runs in complete:
        told.setdefault((runs[0].stage, runs[0].data), []).append(runs)
    keys = {group: differing_keys([runs[0] for runs in several]) for group, several in told.items()}
    return [_setting(runs, keys[runs[0].stage, runs[0].data], found) for runs in complete]


def _setting(runs: Sequence[Record], keys: Sequence[str], found: Found) -> Setting:
    own = [run for run in runs if _is_measured(run)]
    flat = what(own[0])
    absent = set().union(*(found.absent.get(run.path.resolve(), set()) for run in runs))
    missing = (_seeds(runs) | absent) - _seeds(own)
    words = {shown_key(key, own[0].stage): _shown(own[0], key, flat) for key in keys}
    return Setting(words, own, len(missing))


def _shown(run: Record, key: str, flat: Mapping[str, Any]) -> str:
    """A value of the config; of a model with its depth, as in the name of a run's directory."""
    node = mapping(run.config.get(key.removesuffix(f".{BEFORE_WORDS}")))
    return _named(node) if key in MODELS and node else shown_value(flat.get(key))


def models(run: Record) -> str:
    """Which model, or which teacher and student, in a word or two."""
    nodes = [mapping(run.config.get(role)) for role in ("teacher", "model")]
    return " → ".join(_named(node) for node in nodes if node) or run.path.name


def _named(node: Mapping[str, Any]) -> str:
    name = text(node.get("name") or node.get("kind"), 60)
    return "-".join([name, *(text(node[key], 20) for key in ("depth", "width") if key in node)])


def identity(run: Record) -> str:
    """The same for runs that differ in nothing but their seed."""
    data = mapping(run.info.get("data")).get("fingerprint")
    return json.dumps([what(run), data], sort_keys=True, default=str)


def differing_keys(runs: Sequence[Record]) -> list[str]:
    """The keys in which the runs' configs differ; those below a key that differs itself in kind are left to it."""
    flats = [what(run) for run in runs]
    keys = dict.fromkeys(key for flat in flats for key in flat)
    differ = [key for key in keys if len({_comparable(flat, key) for flat in flats}) > 1]
    kinds = [key.removesuffix(BEFORE_WORDS) for key in differ if key.endswith(f".{BEFORE_WORDS}")]
    return [key for key in differ if not any(_follows(key, kind, flats) for kind in kinds)]


def shown_key(key: str, stage: str) -> str:
    """`teacher.kind` as it is typed: `teacher`; and `model`, of a distillation's saved config: `student`."""
    key = key.removesuffix(f".{BEFORE_WORDS}")
    own = key == "model" or key.startswith("model.")
    return f"student{key.removeprefix('model')}" if own and stage == "distill" else key


def stage_of(runs: Sequence[Record]) -> str:
    """The stage that all of them are of; empty where they are of several."""
    stages = {run.stage for run in runs}
    return stages.pop() if len(stages) == 1 else ""


def shortened(keys: Sequence[str]) -> list[str]:
    """The last part of each key where that is told apart from the others: `alpha` for `loss.alpha`."""
    lasts = [key.rpartition(".")[2] for key in keys]
    return [last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)]


def shown_value(value: Any) -> str:
    """A value of a config for people: six digits of a number, words as they are."""
    if value is None:
        return NOTHING
    value = float(f"{value:.6g}") if isinstance(value, float) else value
    return text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 80)


def best_on_validation(settings: Sequence[Setting]) -> Setting | None:
    """The best mean accuracy on the validation split; None where no setting has one. The test split has no say."""
    chosen = [one for one in settings if one.spread("val/accuracy") is not None]
    return max(chosen, key=lambda one: getattr(one.spread("val/accuracy"), "mean", 0.0), default=None)


def comparable(settings: Sequence[Setting]) -> dict[tuple[str, str], list[Setting]]:
    """The settings by what can be ranked together: one stage on one data set."""
    groups: dict[tuple[str, str], list[Setting]] = {}
    for one in settings:
        groups.setdefault((one.first.stage, one.first.data), []).append(one)
    return groups


def _is_measured(run: Record) -> bool:
    return run.status == "completed" and "test/accuracy" in run.summary and run.summary.get("test/samples", 0) > 0


def _seeds(runs: Iterable[Record]) -> set[str]:
    return {str(run.seed) for run in runs}


def _comparable(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat.get(key, "absent"), sort_keys=True, default=str)


def _follows(key: str, node: str, flats: Sequence[Mapping[str, Any]]) -> bool:
    """Is this an option of a kind, that each run has as every other of that kind? Then the kind says it all."""
    if not key.startswith(node) or key == f"{node}{BEFORE_WORDS}":
        return False
    values: dict[str, set[str]] = {}
    for flat in flats:
        values.setdefault(str(flat.get(f"{node}{BEFORE_WORDS}")), set()).add(_comparable(flat, key))
    return all(len(one) == 1 for one in values.values())
