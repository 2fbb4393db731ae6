"""Values that are each right and cannot be meant together, and those that no default can be held against."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.errors import brief, suggestion
from kdrun.schema import Plain, violations
from kdrun.terms import kinds

MIXING = ("mixup", "cutmix")
PLACES_OF_A_MODEL = ("checkpoint", "run")  # keys of a model's node that hold a path
NAME_OF_A_SWEEP = re.compile(r"""(?!\.{1,2}$)[^/\\{}\[\]'"\0\n]+""")
LONGEST_NAME = 255  # bytes of a file's or folder's name


def contradictions(stage: str, config: Plain, folders: Sequence[Path] = ()) -> Iterator[str]:
    """One line for each pair of values that cannot both be meant. `folders` are those of `--config-dir`."""
    for key in ("run_dir", "data_dir", "output_dir", "run"):
        yield from _wrong_place(key, config.get(key))
    yield from _wrong_name(config.get("sweep", {}).get("name"))
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
    if stage == "evaluate" and config.get("run") is not None:
        given = [key for key in ("kind", "checkpoint", "weights") if config["model"].get(key) is not None]
        if given:
            key = "model" if given[0] == "kind" else f"model.{given[0]}"
            yield f"{key} and the run {brief(config['run'])} both name what to evaluate; give one of them"
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


def _wrong_name(value: Any) -> Iterator[str]:
    if value is not None and (isinstance(value, bool) or not NAME_OF_A_SWEEP.fullmatch(str(value))):
        yield f"sweep.name={brief(value)}: this names a folder: one name, without / and brackets"


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
