"""The form in which a config is checked, saved and identified: plain dictionaries, nothing left to expand.

A distill config and the configs of the two trainings it asks for (its teacher's, its baseline's) have one layout, so
that a teacher found by fingerprint is the same whether `train-teacher` or `distill` made it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

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
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

# ----------------------------------------------------------------------------------------------- types and limits


def violations(values: Mapping[str, Any], schema: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """One line for each value that is unknown to the schema, of another type than its default, or out of limits."""
    limits = schema.get("limits") or {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key == "limits":
            continue
        if key == "kind" and key in schema and key not in limits and value != schema[key]:
            yield f"{path}={value}: a kind comes with its own options; choose it with {prefix.rstrip('.')}=<name>"
        elif key not in schema:
            yield f"unknown key {path}; allowed here: {', '.join(k for k in schema if k != 'limits')}"
        elif isinstance(value, dict) and isinstance(schema[key], dict):
            yield from violations(value, schema[key], f"{path}.")
        else:
            yield from _wrong_type(path, value, schema[key], limits.get(key))


def _wrong_type(path: str, value: Any, default: Any, limit: list[Any] | None) -> Iterator[str]:
    if value is None and default is None:
        return
    if _has_bad_number(value):
        yield f"{path}={value}: numbers must be finite"
    elif limit is not None and isinstance(limit[0], str):
        if value not in limit:
            yield f"{path}={value}: allowed: {', '.join(limit)}"
    elif default is None and limit is None:
        return
    elif not _same_type(value, default if default is not None else limit[0] if limit else None):
        kind = _type_name(default if default is not None else limit[0] if limit else None)
        yield f"{path}={value}: must be {kind}{' or null' if default is None else ''}, not {_type_name(value)}"
    elif limit is not None and not limit[0] <= value <= limit[1]:
        yield f"{path}={value}: must be between {limit[0]} and {limit[1]}"


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
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", list: "a list"}
    return names.get(type(value), "a mapping")


def _has_bad_number(value: Any) -> bool:
    if isinstance(value, list):
        return any(_has_bad_number(one) for one in value)
    return isinstance(value, float) and not math.isfinite(value)


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


def contradictions(stage: str, config: Plain) -> Iterator[str]:
    """One line for each pair of values that cannot both be meant."""
    for key in ("run_dir", "data_dir"):
        if not isinstance(config.get(key), str | None):
            yield f"{key}={config[key]}: must be a path or null"
    if stage in ("train", "train_teacher", "distill"):
        yield from _recipe_contradictions(config, config["dataset"], "")
    if stage == "distill":
        yield from _recipe_contradictions(config["teacher"]["train"], config["dataset"], "teacher.train.")
        if "kind" not in config["loss"] and not config["loss"].get("terms"):
            yield "loss=labels has no teacher term, so nothing is distilled; use `kdrun train`, or choose loss=kd"
        given = [key for key in ("checkpoint", "weights") if config["teacher"][key] is not None]
        if config["teacher"]["run"] != "auto" and given:
            yield f"teacher.run and teacher.{given[0]} both name a teacher; set one of them"
    for role in ("model", "teacher", "student"):
        node = config.get(role) or {}
        yield from _wrong_origin(role, node)
        if node.get("checkpoint") is not None and node.get("weights") is not None:
            yield f"{role}.checkpoint and {role}.weights both name weights; set one of them"
    if stage.startswith("train") and (config["loss"].get("kind") or config["loss"].get("terms")):
        yield f"loss={config['loss'].get('kind', 'mix')} needs a teacher; use `kdrun distill`, or loss=labels"
    if config["device"]["precision"] == "fp16" and config["device"]["name"] in ("cpu", "mps"):
        yield f"device.precision=fp16 works on CUDA only, not with device={config['device']['name']}; use bf16 or fp32"


def _wrong_origin(role: str, node: Plain) -> Iterator[str]:
    """Keys that are null by default have no type to check by: what they take is said here."""
    if not isinstance(node.get("rename"), dict | None):
        yield f"{role}.rename={node['rename']}: must map key prefixes, as '{role}.rename={{linear: fc}}'"
    for key in ("mean", "std"):
        value = node.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(one, int | float) for one in value)):
            yield f"{role}.{key}={value}: must be a list of numbers, one per channel, or null"
    widths = node.get("widths", [1])
    if not all(isinstance(width, int) and width > 0 for width in widths) or (node.get("kind") == "cnn" and not widths):
        yield f"{role}.widths={widths}: must be whole numbers above 0"


def _recipe_contradictions(recipe: Plain, dataset: Plain, prefix: str) -> Iterator[str]:
    if dataset["validation"] == 0 and recipe["early_stopping"]["patience"] is not None:
        yield f"{prefix}early_stopping.patience needs a validation split; set dataset.validation above 0"
    mixing = [name for name in recipe["augment"] if name in MIXING]
    if len(mixing) > 1:
        yield f"{prefix}augment has {' and '.join(mixing)}; use one of them"
    milestones = recipe["schedule"].get("milestones", [])
    if milestones != sorted(milestones) or any(not 0 < share < 1 for share in milestones):
        yield f"{prefix}schedule.milestones={milestones}: must rise, each above 0 and below 1 (shares of the training)"


# -------------------------------------------------------------------------------------------------- canonical form


def canonical(stage: str, config: Plain) -> Plain:
    """The saved form: `model` is what is trained or measured, the loss is expanded, what is forced is set."""
    config = dict(config)
    config.pop("experiment", None)
    if stage == "train_teacher":
        config["model"] = config.pop("teacher")
    if stage in ("train", "train_teacher", "distill"):
        config = _forced(config, config["dataset"])
    if stage == "distill":
        teacher = dict(config["teacher"])
        teacher["train"] = _forced(teacher["train"], config["dataset"])
        config = {**config, "teacher": teacher, "model": config["student"]}
        del config["student"]
    return {"stage": "train" if stage == "train_teacher" else stage, **config}


def _forced(recipe: Plain, dataset: Plain) -> Plain:
    recipe = {**recipe, "loss": expanded_loss(recipe["loss"])}
    if dataset["validation"] == 0:
        recipe["select"] = "last"  # there is nothing to choose by
    return recipe


def expanded_loss(loss: Plain) -> Plain:
    """`{task: {kind, weight}, terms: {name: {kind, weight, …}}}`.

    A convex loss is written short, as `kind`, `alpha` and the term's options: task 1 - alpha, term alpha.
    """
    if "kind" in loss:
        options = {key: value for key, value in loss.items() if key not in ("kind", "alpha", "task")}
        task = {**loss["task"], "weight": round(1 - loss["alpha"], 12)}
        return {"task": task, "terms": {loss["kind"]: {"kind": loss["kind"], "weight": loss["alpha"], **options}}}
    terms = loss.get("terms") or {}
    return {"task": loss["task"], "terms": {name: {"kind": name, **term} for name, term in terms.items()}}


# -------------------------------------------------------------------------------------- the trainings a run needs


def baseline_training(config: Plain) -> Plain:
    """The `train` config of the student alone: labels only, the same budget, recipe and seed."""
    labels = {"task": {**config["loss"]["task"], "weight": 1.0}, "terms": {}}
    return {**_shared(config), **{key: config[key] for key in RECIPE}, "model": config["model"], "loss": labels}


def teacher_training(config: Plain) -> Plain:
    """The `train` config of the teacher: its own recipe and seed, nothing of the student's."""
    teacher = config["teacher"]
    own = ("run", "seed", "train")
    model = {key: value for key, value in teacher.items() if key not in own}
    recipe = {key: teacher["train"][key] for key in RECIPE}
    device = {**config["device"], "precision": teacher["train"]["precision"]}
    return {**_shared(config), **recipe, "model": model, "seed": teacher["seed"], "device": device}


def _shared(config: Plain) -> Plain:
    keep = ("seed", "data_dir", "output_dir", "dataset", "device")
    return {"stage": "train", **{key: config[key] for key in keep}, "run_dir": None}


# ------------------------------------------------------------------------------------------------------- identity

PLACES = ("path", "workers", "memory_gb", "verify")  # of a data set: where and how, not what


def identity(config: Plain, data: str, precision: str, parents: Mapping[str, str]) -> Plain:
    """The fields that decide a training's numbers: the model, data, recipe, seed, and what it starts from.

    `data` is the data's fingerprint, `precision` the resolved one, `parents` the fingerprints of a teacher and of
    initial weights. Paths, threads, device, stage and role are not in it.
    """
    origin = ("checkpoint", "weights", "rename")
    return {
        "model": {key: value for key, value in config["model"].items() if key not in origin},
        "dataset": {key: value for key, value in config["dataset"].items() if key not in PLACES},
        **{key: config[key] for key in RECIPE},
        "augment": [[name, options] for name, options in config["augment"].items()],  # the order matters
        "seed": config["seed"],
        "precision": precision,
        "data": data,
        "parents": dict(parents),
    }
