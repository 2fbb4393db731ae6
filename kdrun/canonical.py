"""The form in which a config is saved: plain dictionaries, the loss written out, what is forced set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.schema import Plain, with_floats, without_limits
from kdrun.terms import course_schema, kinds


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
        task = {**loss["task"], "weight": _rest(loss["alpha"])}
        terms = {loss["kind"]: {"kind": loss["kind"], "weight": loss["alpha"], **options}}
    else:
        task, terms = loss["task"], loss.get("terms") or {}
    known = kinds(folders)
    task = _with_courses(task, {"weight": 1.0})
    return {"task": task, "terms": {name: _expanded(name, term, known) for name, term in terms.items()}}


def _rest(alpha: Any) -> Any:
    """`1 - alpha`; of a course, the course that adds up to 1 with it at every point of the training."""
    if isinstance(alpha, dict):
        return {**alpha, **{end: _rest(alpha[end]) for end in ("from", "to")}}
    return round(1 - alpha, 12)


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
