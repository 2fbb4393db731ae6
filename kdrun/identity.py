"""What a training is: the `train` configs that a `distill` config asks for, and the fields that decide their numbers.

A distill config and the configs of the two trainings it asks for (its teacher's, its baseline's) have one layout, so
that a teacher found by fingerprint is the same whether `train-teacher` or `distill` made it.
"""

from __future__ import annotations

from collections.abc import Mapping

from kdrun.schema import Plain

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
PLACES = ("path", "workers", "cache", "cache_gb", "verify")  # of a data set: where and how, not what


def baseline_training(config: Plain) -> Plain:
    """The `train` config of the student alone: labels only, the same budget, recipe and seed."""
    labels = {"task": {**config["loss"]["task"], "weight": 1.0}, "terms": {}}
    return {**_shared(config), **{key: config[key] for key in RECIPE}, "model": config["model"], "loss": labels}


def teacher_training(config: Plain) -> Plain:
    """The `train` config of the teacher: its own recipe and seed, nothing of the student's."""
    teacher = config["teacher"]
    own = ("run", "outputs", "top_k", "seed", "train")
    model = {key: value for key, value in teacher.items() if key not in own}
    recipe = {key: teacher["train"][key] for key in RECIPE}
    device = {**config["device"], "precision": teacher["train"]["precision"]}
    return {**_shared(config), **recipe, "model": model, "seed": teacher["seed"], "device": device}


def _shared(config: Plain) -> Plain:
    keep = ("seed", "data_dir", "output_dir", "log", "checkpoint", "sweep", "launch", "dataset", "device", "logger")
    return {"stage": "train", **{key: config[key] for key in keep}, "run_dir": None, "resume": "never"}


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
