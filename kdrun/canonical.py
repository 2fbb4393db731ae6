"""The form in which a config is checked, saved and identified: plain dictionaries, nothing left to expand.

A distill config and the configs of the two trainings it asks for (its teacher's, its baseline's) have one layout, so
that a teacher found by fingerprint is the same whether `train-teacher` or `distill` made it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.errors import brief, suggestion
from kdrun.terms import course_schema, kinds

Plain = dict[str, Any]

RECIPE = (
    "augment",
    "optimizer",
    "schedule",
    "epochs",
    "batch_size",
    "label_smoothing",
    "grad_clip",
    "accumulate",
    "select",
    "ema",
    "early_stopping",
    "loss",
)
MIXING = ("mixup", "cutmix")
PLACES_OF_A_MODEL = ("checkpoint", "run")  # keys of a model's node that hold a path
LONGEST_WORD = 1000  # characters
LONGEST_NAME = 255  # bytes of a file's or folder's name

# ----------------------------------------------------------------------------------------------- types and limits


def violations(values: Mapping[str, Any], schema: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """One line for each value that is unknown to the schema, of another type than its default, or out of limits."""
    limits = schema.get("limits") or {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key == "limits":
            continue
        if key == "kind" and key in schema and key not in limits and value != schema[key]:
            node = prefix.rstrip(".")
            yield f"{path}={brief(value)}: a kind comes with its own options; choose it with {node}=<name>"
        elif key not in schema:
            known = [one for one in schema if one != "limits"]
            yield f"unknown key {brief(path)}; {suggestion(str(key), known, most=20)}"
        elif isinstance(value, dict) and isinstance(schema[key], dict):
            yield from violations(value, schema[key], f"{path}.")
        elif isinstance(value, dict) and _may_change(key, schema):
            if not value.keys() >= {"from", "to"}:
                yield f"{path}={brief(value)}: a course over the training needs from and to, as {{from: 4, to: 1}}"
            yield from violations(value, course_schema(schema[key], limits.get(key)), f"{path}.")
        else:
            yield from _wrong_type(path, value, schema[key], limits.get(key))


def _may_change(key: str, schema: Mapping[str, Any]) -> bool:
    """May this be a course over the training? The weights and the numbers of a loss may, and nothing else."""
    of_a_loss = "weight" in schema or "alpha" in schema
    return of_a_loss and isinstance(schema[key], float) and key not in ("alpha", "warmup", "first")


def sound(values: Plain, schema: Plain) -> Plain:
    """A copy with the default in place of each value that `violations` names: what can be looked at further."""
    kept: Plain = {}
    for key, value in values.items():
        default = schema.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            kept[key] = sound(value, default)
        elif key in schema or key == "limits":
            kept[key] = default if any(violations({key: value}, schema)) else value
    return kept


def _wrong_type(path: str, value: Any, default: Any, limit: list[Any] | None) -> Iterator[str]:
    given = f"{path}={brief(value)}"
    example = default if default is not None else limit[-1] if limit else None
    words = [one for one in limit or [] if isinstance(one, str)]
    if value is None and default is None:
        return
    if _unusable(value):
        yield f"{given}: {_unusable(value)}"
    elif value in words or (default is None and limit is None):
        return
    elif limit and len(words) == len(limit):
        yield f"{given}: allowed: {', '.join(words)}"
    elif limit and words and not (_same_type(value, limit[-1]) and _within(value, limit)):
        yield f"{given}: must be {' or '.join(words)}, or between {limit[-2]} and {limit[-1]}"
    elif not words and not _same_type(value, example):
        also = " or null" if default is None else ""
        yield f"{given}: must be {_type_name(example)}{also}{_not(value, example)}"
    elif limit and not words and not _within(value, limit):
        yield f"{given}: must be between {limit[0]} and {limit[1]}"


def _unusable(value: Any) -> str | None:
    """Why no key can have such a value, whatever its type."""
    if isinstance(value, dict | list):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return next((reason for reason in map(_unusable, parts) if reason), None)
    if isinstance(value, float) and not math.isfinite(value):
        return "numbers must be finite"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "numbers must lie within ±2^63"
    if value == "???":
        return "in a config this says that a value is missing; give one"
    if isinstance(value, str) and len(value) > LONGEST_WORD:
        return f"this has {len(value)} characters; at most {LONGEST_WORD} are read"
    if isinstance(value, str) and any(ord(one) < 32 or 0xD800 <= ord(one) <= 0xDFFF for one in value):
        return "this has characters that no name can have"
    return None


def _within(value: Any, limit: list[Any]) -> bool:
    """Within the last two of a limit; of a list, every element."""
    return all(limit[-2] <= one <= limit[-1] for one in (value if isinstance(value, list) else [value]))


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, list):
        return isinstance(value, list) and all(_same_type(one, default[0]) for one in value if default)
    return isinstance(value, type(default))


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        several = {int: "whole numbers", float: "numbers", str: "words"}
        return f"a list of {several.get(type(value[0]), 'values')}" if value else "a list"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    return names.get(type(value), "a mapping")


def _not(value: Any, example: Any) -> str:
    """', not a word'; nothing between two lists, whose elements differ in type."""
    return "" if isinstance(value, list) and isinstance(example, list) else f", not {_type_name(value)}"


def with_floats(values: Any, schema: Any) -> Any:
    """A copy in which a whole number is a float wherever the default is one: `lr=1` and `lr=1.0` are one config."""
    if isinstance(values, dict) and isinstance(schema, dict):
        limits = schema.get("limits") or {}
        defaults = {
            key: limits[key][0] if schema.get(key) is None and key in limits else schema.get(key) for key in values
        }
        return {key: with_floats(value, defaults[key]) for key, value in values.items()}
    if isinstance(values, list) and isinstance(schema, list) and schema:
        return [with_floats(value, schema[0]) for value in values]
    is_whole = isinstance(values, int) and not isinstance(values, bool)
    return float(values) if is_whole and isinstance(schema, float) else values


def without_limits(node: Any) -> Any:
    """A copy without any `limits` node."""
    if isinstance(node, dict):
        return {key: without_limits(value) for key, value in node.items() if key != "limits"}
    return list(node) if isinstance(node, list) else node


# ------------------------------------------------------------------------------------------------- contradictions


def contradictions(stage: str, config: Plain, folders: Sequence[Path] = ()) -> Iterator[str]:
    """One line for each pair of values that cannot both be meant. `folders` are those of `--config-dir`."""
    for key in ("run_dir", "data_dir", "output_dir", "run"):
        yield from _wrong_place(key, config.get(key))
    yield from _wrong_data(config["dataset"])
    if stage in ("train", "train_teacher", "distill"):
        yield from _recipe_contradictions(config, config["dataset"], "")
    if stage == "distill":
        yield from _recipe_contradictions(config["teacher"]["train"], config["dataset"], "teacher.train.")
        if not config["loss"].keys() & {"kind", "terms"} or config["loss"].get("terms") == {}:
            yield "loss=labels has no teacher term, so nothing is distilled; use `kdrun train`, or choose loss=kd"
        precision, device = config["teacher"]["train"]["precision"], config["device"]["name"]
        yield from _wrong_precision("teacher.train.precision", precision, device)
        given = [key for key in ("checkpoint", "weights") if config["teacher"][key] is not None]
        if config["teacher"]["run"] != "auto" and given:
            yield f"teacher.run and teacher.{given[0]} both name a teacher; set one of them"
    for role in ("model", "teacher", "student"):
        node = config.get(role) or {}
        yield from _wrong_origin(role, node)
        if node.get("checkpoint") is not None and node.get("weights") is not None:
            yield f"{role}.checkpoint and {role}.weights both name weights; set one of them"
    if "loss" in config:
        yield from _wrong_loss(stage, config["loss"], folders)
    yield from _wrong_precision("device.precision", config["device"]["precision"], config["device"]["name"])


def _wrong_loss(stage: str, loss: Plain, folders: Sequence[Path]) -> Iterator[str]:
    terms = loss.get("terms", {})
    if stage.startswith("train") and ("kind" in loss or terms != {}):
        name = loss.get("kind") or (next(iter(terms)) if isinstance(terms, dict) and len(terms) == 1 else "mix")
        yield f"loss={brief(name)} needs a teacher; use `kdrun distill`, or loss=labels"
    elif not isinstance(terms, dict):
        given = "loss=mix has no terms" if terms is None else f"loss.terms={brief(terms)}"
        yield f"{given}: name them with their weights, as loss.terms='{{kd: 0.9, logit_std: 9}}'"
    else:
        known = kinds(folders)
        for name, term in terms.items():
            yield from _wrong_term(str(name), term, known)


def _wrong_term(name: str, term: Any, known: Mapping[str, Plain]) -> Iterator[str]:
    node = term if isinstance(term, dict) else {"weight": term}
    kind, path = str(node.get("kind", name)), f"loss.terms.{brief(name)}"
    if not name.isidentifier() or name == "task":
        yield f"{path}: no name for a term; letters, digits and _ make one, and 'task' is the task loss"
    elif kind not in known:
        yield f"{path}: there is no such loss as {brief(kind)}; {suggestion(kind, known, most=20)}"
    else:
        yield from violations(node, known[kind], f"{path}.")


def _wrong_precision(key: str, precision: str, device: str) -> Iterator[str]:
    if precision == "fp16" and device in ("cpu", "mps"):
        yield f"{key}=fp16 works on CUDA only, not with device={device}; use bf16 or fp32"


def _wrong_place(key: str, value: Any) -> Iterator[str]:
    if value is None:
        return
    if not isinstance(value, str) or not value:
        quoted = f"; quote a number: \"{key}='{value}'\"" if isinstance(value, int | float) else ""
        yield f"{key}={brief(value)}: must be a path or null{quoted}"
    elif any(len(name.encode()) > LONGEST_NAME for name in value.split("/")):
        yield f"{key}={brief(value)}: a name in this path is longer than {LONGEST_NAME} bytes, the most a file's can be"


def _wrong_data(dataset: Plain) -> Iterator[str]:
    yield from _wrong_place("dataset.path", dataset.get("path"))
    if any(number <= 0 for number in dataset.get("std", [])):
        yield f"dataset.std={brief(dataset['std'])}: images are divided by these; they must be above 0"


def _wrong_origin(role: str, node: Plain) -> Iterator[str]:
    """Keys that are null by default have no type to check by: what they take is said here."""
    rename, weights = node.get("rename"), node.get("weights")
    if not isinstance(rename, dict | None) or not all(isinstance(one, str) for one in (rename or {}).values()):
        yield f"{role}.rename={brief(rename)}: must map key prefixes, as '{role}.rename={{linear: fc}}'"
    elif rename and weights is None and node.get("checkpoint") is None:
        yield f"{role}.rename maps the keys of a file of weights; set {role}.checkpoint"
    taps = node.get("taps")
    if not isinstance(taps, dict | None) or not all(isinstance(one, str) for one in (taps or {}).values()):
        yield f"{role}.taps={brief(taps)}: must map taps to modules, as '{role}.taps={{stage1: layer1}}', or be null"
    for key in PLACES_OF_A_MODEL:
        yield from _wrong_place(f"{role}.{key}", node.get(key))
    if not isinstance(weights, str | None):
        yield f"{role}.weights={brief(weights)}: must be a name of torchvision's, as IMAGENET1K_V2, or null"
    for key in ("mean", "std"):
        yield from _wrong_normalisation(f"{role}.{key}", node.get(key), positive=key == "std")
    widths = node.get("widths", [1])
    if not all(0 < width <= 1_000_000 for width in widths) or (node.get("kind") == "cnn" and not widths):
        yield f"{role}.widths={brief(widths)}: must be whole numbers above 0 and up to 1000000"


def _wrong_normalisation(key: str, value: Any, positive: bool) -> Iterator[str]:
    numbers = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers) or numbers == [value]:
        yield f"{key}={brief(value)}: must be a list of numbers, one per channel, or null"
    elif positive and any(one <= 0 for one in numbers):
        yield f"{key}={brief(value)}: images are divided by these; they must be above 0"


def _recipe_contradictions(recipe: Plain, dataset: Plain, prefix: str) -> Iterator[str]:
    if dataset["validation"] == 0 and recipe["early_stopping"]["patience"] is not None:
        yield f"{prefix}early_stopping.patience needs a validation split; set dataset.validation above 0"
    mixing = [name for name in recipe["augment"] if name in MIXING]
    if len(mixing) > 1:
        yield f"{prefix}augment has {' and '.join(mixing)}; use one of them"
    betas = recipe["optimizer"].get("betas", [0.0, 0.0])
    if len(betas) != 2:
        yield f"{prefix}optimizer.betas={brief(betas)}: must be two numbers"
    milestones, warmup = recipe["schedule"].get("milestones", []), recipe["schedule"].get("warmup", 0.0)
    if milestones != sorted(milestones) or any(not 0 < share < 1 for share in milestones):
        given = f"{prefix}schedule.milestones={brief(milestones)}"
        yield f"{given}: must rise, each above 0 and below 1 (shares of the training)"
    elif milestones and milestones[0] < warmup:
        yield f"{prefix}schedule.warmup={warmup} ends after the first of schedule.milestones={brief(milestones)}"


# -------------------------------------------------------------------------------------------------- canonical form


def canonical(stage: str, config: Plain, folders: Sequence[Path] = ()) -> Plain:
    """The saved form: `model` is what is trained or measured, the loss is expanded, what is forced is set.

    `folders` are those of `--config-dir`.
    """
    config = dict(config)
    config.pop("experiment", None)
    if stage == "train_teacher":
        config["model"] = config.pop("teacher")
    if stage in ("train", "train_teacher", "distill"):
        config = _forced(config, config["dataset"], folders)
    if stage == "distill":
        teacher = dict(config["teacher"])
        teacher["train"] = _forced(teacher["train"], config["dataset"], folders)
        config = {**config, "teacher": teacher, "model": config["student"]}
        del config["student"]
    return {"stage": "train" if stage == "train_teacher" else stage, **config}


def _forced(recipe: Plain, dataset: Plain, folders: Sequence[Path]) -> Plain:
    recipe = {**recipe, "loss": expanded_loss(recipe["loss"], folders)}
    if dataset["validation"] == 0:
        recipe["select"] = "last"  # there is nothing to choose by
    return recipe


def expanded_loss(loss: Plain, folders: Sequence[Path] = ()) -> Plain:
    """`{task: {kind, weight}, terms: {name: {kind, weight, …}}}`.

    A convex loss is written short, as `kind`, `alpha` and the term's options: task 1 - alpha, term alpha. A term of a
    mix may be its weight alone, or some of its options: its kind, the name if it has none, says the others.
    """
    if "kind" in loss:
        options = {key: value for key, value in loss.items() if key not in ("kind", "alpha", "task")}
        task = {**loss["task"], "weight": round(1 - loss["alpha"], 12)}
        terms = {loss["kind"]: {"kind": loss["kind"], "weight": loss["alpha"], **options}}
    else:
        task, terms = loss["task"], loss.get("terms") or {}
    known = kinds(folders)
    task = _with_courses(task, {"weight": 1.0})
    return {"task": task, "terms": {name: _expanded(name, term, known) for name, term in terms.items()}}


def _expanded(name: str, term: Any, known: Mapping[str, Plain]) -> Plain:
    node = dict(term) if isinstance(term, dict) else {"weight": term}
    kind = node.pop("kind", name)
    schema = known.get(kind, {})
    return _with_courses({"kind": kind, **without_limits(schema), **with_floats(node, schema)}, schema)


def _with_courses(node: Plain, schema: Plain) -> Plain:
    """Every course over the training with all its keys."""
    full = dict(node)
    for key, value in node.items():
        if isinstance(value, dict) and isinstance(schema.get(key), float):
            course = course_schema(schema[key], None)
            full[key] = with_floats({**without_limits(course), **value}, course)
    return full


# -------------------------------------------------------------------------------------- the trainings a run needs


def baseline_training(config: Plain) -> Plain:
    """The `train` config of the student alone: labels only, the same budget, recipe and seed."""
    labels = {"task": {**config["loss"]["task"], "weight": 1.0}, "terms": {}}
    return {**_shared(config), **{key: config[key] for key in RECIPE}, "model": config["model"], "loss": labels}


def teacher_training(config: Plain) -> Plain:
    """The `train` config of the teacher: its own recipe and seed, nothing of the student's."""
    teacher = config["teacher"]
    own = ("run", "outputs", "seed", "train")
    model = {key: value for key, value in teacher.items() if key not in own}
    recipe = {key: teacher["train"][key] for key in RECIPE}
    device = {**config["device"], "precision": teacher["train"]["precision"]}
    return {**_shared(config), **recipe, "model": model, "seed": teacher["seed"], "device": device}


def _shared(config: Plain) -> Plain:
    keep = ("seed", "data_dir", "output_dir", "checkpoint", "sweep", "dataset", "device")
    return {"stage": "train", **{key: config[key] for key in keep}, "run_dir": None, "resume": "never"}


# ------------------------------------------------------------------------------------------------------- identity

PLACES = ("path", "workers", "memory_gb", "verify")  # of a data set: where and how, not what


def identity(config: Plain, data: str, precision: str, parents: Mapping[str, str]) -> Plain:
    """The fields that decide a training's numbers: the model, data, recipe, seed, and what it starts from.

    `data` is the data's fingerprint, `precision` the resolved one, `parents` the fingerprints of a teacher and of
    initial weights. Paths, threads, device, stage and role are not in it.
    """
    origin = ("checkpoint", "weights", "rename", "taps")
    taps = {role: config[role]["taps"] for role in ("model", "teacher") if config.get(role, {}).get("taps")}
    return {
        "model": {key: value for key, value in config["model"].items() if key not in origin},
        "dataset": {key: value for key, value in config["dataset"].items() if key not in PLACES},
        **{key: config[key] for key in RECIPE},
        "augment": [[name, options] for name, options in config["augment"].items()],  # the order matters
        "seed": config["seed"],
        "precision": precision,
        "data": data,
        "parents": dict(parents),
        **({"taps": taps} if taps and config["loss"]["terms"] else {}),  # where a loss reads; labels alone read nothing
    }
