"""Saved configs and model specs of unknown origin, held against the configs that ship with kdrun.

The shipped YAML files are the schema here as on the command line, but they are put together without Hydra: nothing
that somebody else wrote is composed, interpolated, instantiated or imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kdrun import lookup
from kdrun.contradictions import contradictions
from kdrun.errors import UsageError, brief, refuse, suggestion
from kdrun.lookup import conf_dir
from kdrun.records.foreign import read_yaml
from kdrun.schema import Plain, violations, with_floats, without_limits
from kdrun.terms import kinds

ROLES = ("teacher", "student")  # groups that are the models
STAGES = ("train", "distill", "evaluate")  # those that a saved config can have
LARGEST_SIDE, MOST_CLASSES, MOST_VALUES = 5000, 100_000, 2**26  # of what a model takes and answers
SIZES = {"channels": 1, "size": 1, "network_channels": 1}
SIZE_LIMITS = {"channels": [1, 1024], "size": [1, LARGEST_SIDE], "network_channels": [1, 1024]}
PROJECTOR: Plain = {"known": 1, "wanted": 1, "reduction": 1, "pixels": 1, "rectified": False}
PROJECTOR["limits"] = {"known": [1, 100_000], "wanted": [1, 100_000], "reduction": [1, 64], "pixels": [1, LARGEST_SIDE]}
REUSED: Plain = {"student": {}, "tap": "", "projector": PROJECTOR}
SPEC = ("kind", "options", "classes", "channels", "size", "network_channels", "mean", "std")


def checked_run_config(config: Plain, run: Path | None = None, folders: Sequence[Path] = ()) -> Plain:
    """A saved config with every key known, every value of its type and within its limits.

    Keys that a run of an earlier kdrun does not have get their default. `folders` are those of `--config-dir`, where
    the person at the keyboard named any; a run's own are not looked at. Raises `UsageError` with every mistake.
    """
    where = "the saved config" if run is None else f"{brief(run)}/config.yaml"
    stage = config.get("stage")
    if stage not in STAGES:
        raise UsageError(f"{where}: stage={brief(stage)}: allowed: {', '.join(STAGES)}")
    values = {key: value for key, value in config.items() if key != "stage"}
    schema = _Schemas((conf_dir(), *folders), where).of_stage(str(stage), values)
    _refuse(where, violations(values, schema))
    values = without_limits(with_floats(_filled(values, schema), schema))
    _refuse(where, contradictions(str(stage), values, folders))
    return {"stage": stage, **values}


def checked_changes(changes: Plain) -> None:
    """What may be typed beside a saved config: places, a device, its threads, how many processes.

    Raises `UsageError`.
    """
    schemas = _Schemas((conf_dir(),), "")
    devices, launch = schemas.options("device"), schemas.options("")["common"]["launch"]
    device = changes.get("device", "auto")
    wrong = []
    if device not in devices:
        wrong.append(f"device={brief(device)}: there is no such device; {suggestion(device, devices)}")
    for key, schema in (("device.threads", devices["auto"]), ("launch.processes", launch)):
        node, _, name = key.partition(".")
        wrong += violations({name: changes[key]}, schema, f"{node}.") if key in changes else []
    refuse(wrong)


def checked_spec(spec: Any, path: Path) -> Plain:
    """The spec in a model file, when it describes a model of kdrun's or of a plugin. Raises `UsageError`."""
    where = f"model file {brief(path)}"
    if not isinstance(spec, dict) or any(key not in spec for key in SPEC) or not isinstance(spec["options"], dict):
        raise UsageError(f"{where}: its spec must have {', '.join(SPEC)}")
    reused = spec["kind"] == "reused"  # no option of the group model: see kdrun/models/reused.py
    _refuse(where, _wrong_reuse(spec["options"], where) if reused else _wrong_options(spec, where))
    sizes = {key: spec[key] for key in SIZES}
    _refuse(where, violations(sizes, {**SIZES, "limits": SIZE_LIMITS}))
    _refuse(where, _wrong_spec(spec))
    return spec


def _wrong_options(spec: Plain, where: str) -> Iterator[str]:
    if not (lookup.PLUGINS and spec["kind"] in lookup.names("models")):
        schema = _Schemas((conf_dir(),), where).option("model", {"kind": spec["kind"]}, "spec")
        yield from violations(spec["options"], {**schema, "kind": None}, "options.")


def _wrong_reuse(options: Plain, where: str) -> Iterator[str]:
    """The options of a student with its teacher's classifier: those of the student's own network are within them."""
    parts = {"options": REUSED, "options.student": {"kind": "", "options": {}}, "options.projector": PROJECTOR}
    found: Plain = {"options": options, **{f"options.{key}": options.get(key) for key in ("student", "projector")}}
    wrong = [
        f"{name}: must have {', '.join(sorted(wanted.keys() - {'limits'}))}"
        for name, wanted in parts.items()
        if not isinstance(found[name], dict) or found[name].keys() != wanted.keys() - {"limits"}
    ]
    yield from wrong
    if not wrong:
        yield from violations({**options, "student": {}}, REUSED, "options.")
        yield from _wrong_options(options["student"], where)


def _wrong_spec(spec: Plain) -> Iterator[str]:
    classes = spec["classes"]
    if not isinstance(classes, list) or not 0 < len(classes) <= MOST_CLASSES:
        yield f"classes: must be a list of 1 to {MOST_CLASSES:,} names"
    elif not all(isinstance(name, str) and len(name) <= 1000 for name in classes):
        yield "classes: must be names of at most 1,000 characters"
    for key in ("mean", "std"):
        values = spec[key]
        numbers = values if isinstance(values, list) else []
        sound = all(isinstance(one, int | float) and math.isfinite(one) for one in numbers)
        if len(numbers) != spec["channels"] or not sound or (key == "std" and not all(one > 0 for one in numbers)):
            yield f"{key}: must be a list of {spec['channels']} numbers"
    most = max(spec["channels"], spec["network_channels"]) * spec["size"] ** 2
    if most > MOST_VALUES:
        yield f"images of {most:,} values: at most {MOST_VALUES:,} are taken"
    resize = spec.get("resize")
    if resize is not None and not (isinstance(resize, int) and 0 < resize <= LARGEST_SIDE):
        yield f"resize={brief(resize)}: must be a whole number up to {LARGEST_SIDE}, or null"


class _Schemas:
    """Puts schemas together from the YAML files of `folders`, by the kinds that a config names."""

    def __init__(self, folders: tuple[Path, ...], where: str) -> None:
        self.folders, self.where = folders, where

    def of_stage(self, stage: str, values: Plain) -> Plain:
        schema = self.composed("", stage, values, "")
        if "student" in schema:
            schema["model"] = schema.pop("student")  # the student is `model` in saved configs
        return schema

    def composed(self, group: str, name: str, node: Any, path: str) -> Plain:
        """A file's own keys with those of its `defaults`, each below the key where it is mounted.

        `node` is what the config has where this file is mounted itself, `path` the key of that place.
        """
        own = dict(self.options(group)[name])
        schema: Plain = {}
        for entry in own.pop("defaults", []):
            if isinstance(entry, str):
                part = {} if entry == "_self_" else self.composed(group, entry, node, path)
            else:
                ((key, choice),) = entry.items()
                part = self.mounted(key, choice, node, path)
            schema = _merged(schema, part)
        return _merged(schema, own)

    def mounted(self, entry: str, choice: Any, node: Any, path: str) -> Plain:
        """What one entry of a defaults list brings: `group: choice`, `group@place: choice`, `optional group: null`."""
        group, _, place = entry.removeprefix("optional ").removeprefix("/").partition("@")
        if entry.startswith("override ") or group == "experiment":
            return {}
        keys = [] if place == "_global_" else (place or group).split(".")
        for key in keys:
            node = _child(node, key)
        schema = self.option("model" if group in ROLES else group, node, ".".join([path, *keys]).strip("."), choice)
        for key in reversed(keys):
            schema = {key: schema}
        return schema

    def option(self, group: str, node: Any, path: str, choice: Any = None) -> Plain:
        """The schema of a node that an option of `group` filled: found by its `kind` or `name`, else by `choice`."""
        options = self.options(group)
        if group == "loss":
            return self.loss(node, path)
        if group == "augment":
            known = {key: value for option in options.values() for key, value in option.items()}
            return {key: known[key] for key in node if key in known} if isinstance(node, dict) else {}
        telling = next((key for key in ("kind", "name") if all(key in option for option in options.values())), None)
        if telling is None:
            return self.composed(group, choice, node, path)
        if isinstance(node, dict) and (telling in node or choice is not None):
            return self.of_kind(options, telling, node.get(telling), path)
        return {}

    def of_kind(self, options: Mapping[str, Plain], telling: str, kind: Any, path: str) -> Plain:
        kinds = {option[telling]: option for option in list(options.values())[::-1] if telling in option}
        if not isinstance(kind, str) or kind not in kinds:
            wrong = f"{path}.{telling}={brief(kind)}: there is no such {telling}; {suggestion(str(kind), kinds)}"
            _refuse(self.where, [wrong])
        return kinds[kind]

    def loss(self, node: Any, path: str) -> Plain:
        """The expanded form: the task as in `loss=labels`, each term with a weight and the options of its kind."""
        known, terms = kinds(self.folders), {}
        given = _child(node, "terms")
        for name, term in given.items() if isinstance(given, dict) else ():
            terms[name] = self.of_kind(known, "kind", _child(term, "kind"), f"{path}.terms.{brief(name)}")
        return {"task": self.options("loss")["labels"]["task"], "terms": terms}

    def options(self, group: str) -> dict[str, Plain]:
        """Every option of a group by name; `group` "" has the stages."""
        return {
            file.stem: _shipped(file) for folder in self.folders for file in sorted((folder / group).glob("*.yaml"))
        }


@cache
def _shipped(file: Path) -> Plain:
    return read_yaml(file)


def _child(node: Any, key: str) -> Any:
    """What a saved config has below a key, None where that is nothing; the student is called `model` there."""
    if not isinstance(node, dict):
        return None
    return node.get(key, node.get("model") if key == "student" else None)


def _merged(one: Plain, other: Plain) -> Plain:
    """Both, the second within and over the first."""
    both = dict(one)
    for key, value in other.items():
        inner = both.get(key)
        both[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return both


def _filled(values: Plain, schema: Plain) -> Plain:
    """The values in their order, and after them the defaults of what is missing."""
    own = dict(values)
    for key, value in values.items():
        default = schema.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            own[key] = _filled(value, default)
    missing = {key: without_limits(value) for key, value in schema.items() if key not in values}
    return {**own, **missing}


def _refuse(where: str, mistakes: Iterable[str]) -> None:
    found = list(mistakes)
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise UsageError(f"{where}: {'; '.join(found[:3])}{more}")
