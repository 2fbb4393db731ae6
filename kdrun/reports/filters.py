"""Runs that answer to conditions on any key: `status=completed loss.alpha=0.9 'test/accuracy>0.95'`.

A config is read line by line here, without YAML: it is one that kdrun wrote, and five hundred of them take no second.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdrun.errors import KdrunError, UsageError, brief, suggestion
from kdrun.records.foreign import read_text
from kdrun.reports.reading import Record
from kdrun.words import by_key

CONDITION = re.compile(r"([\w./@-]+?)(>=|<=|!=|=|>|<)(.*)", re.DOTALL)
LINE = re.compile(r"( *)(?:- (.*)|([\w@/-]+):(?: (.*))?)")
COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    **{"=": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt},
    **{">=": operator.ge, "<=": operator.le},
}
NODES = ("teacher", "model", "dataset", "optimizer", "schedule")  # chosen by name: their `kind` is what is meant


@dataclass(frozen=True)
class Condition:
    """One word of a filter."""

    key: str
    sign: str
    value: str

    def holds(self, values: Mapping[str, str]) -> bool:
        """Is it so? A key that a run does not have is nothing but unequal to everything."""
        if self.key not in values:
            return self.sign == "!="
        have, wanted = values[self.key], self.value
        try:
            return COMPARE[self.sign](float(have), float(wanted))
        except ValueError:
            return COMPARE[self.sign](have.casefold(), wanted.casefold()) if self.sign in ("=", "!=") else False


def conditions(words: Sequence[str]) -> list[Condition]:
    """Raises `UsageError` for a word that is none."""
    found = []
    for word in words:
        read = CONDITION.fullmatch(word)
        if read is None:
            raise UsageError(f"{brief(word)}: not a condition; write key=value, key!=value, or 'key>value'")
        found.append(Condition(*read.groups()))
    return found


def chosen(runs: Sequence[Record], words: Sequence[str]) -> list[Record]:
    """The runs for which every condition holds. Raises `UsageError` for a key that no run has."""
    wanted = conditions(words)
    if not wanted:
        return list(runs)
    known = [(run, values_of(run)) for run in runs]
    keys = {key for _, values in known for key in values}
    strange = [one.key for one in wanted if one.key not in keys]
    if strange and known:
        raise UsageError(f"no run has a key {brief(strange[0])}; {suggestion(strange[0], keys)}")
    return [run for run, values in known if all(one.holds(values) for one in wanted)]


def values_of(run: Record) -> dict[str, str]:
    """Everything that is known of a run, by key, as text: its config, its numbers, and what `run.json` says."""
    config = _typed(_config(run))
    facts = {"status": run.status, "stage": run.stage, "name": run.path.name, "run": str(run.path), "data": run.data}
    numbers = {key: repr(value) for key, value in run.summary.items()}
    info = {key: value for key, value in by_key(run.info) if not isinstance(value, dict | list)}
    info = {key: "null" if value is None else str(value) for key, value in info.items()}
    return {**config, **info, **numbers, **facts}


def _config(run: Record) -> dict[str, str]:
    try:
        return flat_lines(read_text(run.path / "config.yaml", 1_000_000))
    except KdrunError:
        return {}


def flat_lines(text: str) -> dict[str, str]:
    """The values of plain block YAML by dotted key; a list as `[8, 16]`. What it cannot read is left out."""
    values: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        read = LINE.fullmatch(line)
        if read is None:
            continue
        indent, item, key, value = len(read[1]), read[2], read[3], read[4]
        if item is not None:
            place = ".".join(name for at, name in path if at <= indent)
            lists.setdefault(place, []).append(item.strip("'\""))
            continue
        path = [*((at, name) for at, name in path if at < indent), (indent, key)]
        if value is not None:
            values[".".join(name for _, name in path)] = value.strip("'\"")
    return values | {place: f"[{', '.join(items)}]" for place, items in lists.items()}


def _typed(flat: Mapping[str, str]) -> dict[str, str]:
    """The same with the short names that people type: `teacher=mlp`, `student=cnn`, `loss=kd`, `loss.alpha=0.9`."""
    short = {node: flat[f"{node}.kind"] for node in NODES if f"{node}.kind" in flat}
    terms = [key.split(".")[2] for key in flat if key.startswith("loss.terms.") and key.endswith(".kind")]
    if len(terms) == 1:
        prefix = f"loss.terms.{terms[0]}."
        own = {key.removeprefix(prefix): value for key, value in flat.items() if key.startswith(prefix)}
        short |= {f"loss.{key}": value for key, value in own.items()} | {"loss": terms[0]}
        alphas = [key for key in own if key.partition(".")[0] == "weight"]  # one number, or the ends of a course
        short |= {f"loss.alpha{key.removeprefix('weight')}": own[key] for key in alphas}
    if "teacher.kind" in flat:  # a distillation: its model is the student
        short |= {
            f"student{key.removeprefix('model')}": value for key, value in flat.items() if key.startswith("model.")
        }
        short |= {"student": short["model"]} if "model" in short else {}
    return {**flat, **short}
