"""From a config to objects, in one visible order: data, models and their weights, learner, optimizer, recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from kdrun import lookup, parallel, processes, schedule
from kdrun.datasets.files import cache_folder
from kdrun.datasets.loader import PlainLoader, TrainLoader
from kdrun.datasets.raw import Files
from kdrun.datasets.split import Data, Split, split
from kdrun.datasets.views import Views
from kdrun.device import compile_module, place, room_for_data
from kdrun.engine import Recipe, Training
from kdrun.errors import UsageError, brief
from kdrun.learner import Learner, Weight
from kdrun.losses import Term
from kdrun.losses.term import Deployed
from kdrun.models.building import Model, Spec
from kdrun.models.convolutions import with_faster_convolutions
from kdrun.optimizers import OPTIMIZERS
from kdrun.schema import Plain
from kdrun.taps import Tapped
from kdrun.tracing import find_taps
from kdrun.types import Outputs

EVALUATION_BATCH = 256
COMMON_DATA_KEYS = (
    "kind",
    "mean",
    "std",
    "validation",
    "split_seed",
    "view_seed",
    "limit",
    "balance",
    "views",
    "verify",
)
ORIGIN = ("checkpoint", "weights", "rename", "mean", "std", "taps")

# ------------------------------------------------------------------------------------------------------------ data


def data_folder(config: Plain) -> Path:
    """`data_dir`, else $KDRUN_DATA, else a cache folder of the user."""
    given = config["data_dir"] or os.environ.get("KDRUN_DATA")
    return Path(given) if given else cache_folder() / "data"


def places(config: Plain) -> Plain:
    """The folders of this machine that a run used, for `run.json`; relative paths of its config begin at the first."""
    used = {"working_dir": Path(), "data_dir": data_folder(config), "output_dir": Path(config["output_dir"])}
    return {name: str(folder.absolute()) for name, folder in used.items()}


def read_data(config: Plain) -> Data:
    """The data set of a config, read, checked and split."""
    node = config["dataset"]
    options = {key: value for key, value in node.items() if key not in COMMON_DATA_KEYS}
    raw = lookup.module("datasets", node["kind"]).read(data_folder(config), node["verify"], **options)
    return split(raw, node["validation"], node["split_seed"], node["limit"])


def data_record(config: Plain, data: Data) -> Plain:
    """What `run.json` says of the data."""
    sizes = {
        name: 0 if part is None else len(part)
        for name, part in (("train", data.train), ("val", data.validation), ("test", data.test))
    }
    node = config["dataset"]
    verified = node["verify"] if data.known else None
    return {"name": node["kind"], "fingerprint": data.fingerprint, "verified": verified, "samples": sizes}


def on_device(data: Data, device: str) -> Data:
    """The data with pixels kept on the device where they fit, and brought there batch by batch where they do not."""
    room = room_for_data(device)
    validation = None if data.validation is None else data.validation.to(device, room)
    return replace(data, train=data.train.to(device, room), validation=validation, test=data.test.to(device, room))


def train_loader(config: Plain, data: Data) -> TrainLoader:
    """Raises `UsageError` when not even one batch would come of it."""
    node, size = config["dataset"], config["batch_size"]
    if size > len(data.train):
        raise UsageError(f"batch_size={size} is more than the {len(data.train)} training samples; choose a smaller one")
    augmentations = [(name, lookup.module("datasets.augment", name), opts) for name, opts in config["augment"].items()]
    views = Views(data.train, len(data.classes), node["view_seed"], augmentations)
    if processes.count() > 1 and not views.storable:
        raise UsageError(
            f"augment={views.mixing[0][0]}: streamed images are mixed within their batch, which several processes "
            "share; use one process, a larger dataset.cache_gb, or another augmentation"
        )
    order = {"seed": config["seed"], "balance": node["balance"], "cycle": node["views"]}
    return TrainLoader(data.train, views, size, **order, workers=node.get("workers", 0))


def plain_loader(config: Plain, part: Split) -> PlainLoader:
    return PlainLoader(part, EVALUATION_BATCH, config["dataset"].get("workers", 0))


def metrics(task: str = "classification") -> dict[str, ModuleType]:
    """Every metric of a task, by name."""
    modules = {name: lookup.module("metrics", name) for name in lookup.names("metrics")}
    return {name: module for name, module in modules.items() if task == module.TASK}


# ---------------------------------------------------------------------------------------------------------- models


def model_spec(node: Plain, data: Data, dataset: Plain) -> Spec:
    """The spec of a config's model for this data: kind, options, classes, sizes, normalisation."""
    options = {key: value for key, value in node.items() if key not in ("kind", *ORIGIN)}
    if node["weights"] is not None and options.get("stem") == "auto":
        options["stem"] = "original"  # published weights are those of the original stem
    channels, height, width = data.shape
    module = lookup.module("models", node["kind"])
    adapt = getattr(module, "input_size", lambda size, **_: size)
    if height != width:
        raise UsageError(f"images of {height}x{width} pixels: only square ones are read; crop them first")
    mean, std = node["mean"] or dataset["mean"], node["std"] or dataset["std"]
    if len(mean) != channels or len(std) != channels:
        raise UsageError(f"mean={mean} and std={std} must have one number per channel, and the data has {channels}")
    return {
        "kind": node["kind"],
        "options": options,
        "classes": list(data.classes),
        "channels": channels,
        "size": adapt(height, **options),
        "network_channels": getattr(module, "CHANNELS", channels),
        "mean": mean,
        "std": std,
        "resize": dataset.get("resize"),  # how pictures of other sizes are cut for this data
    }


# -------------------------------------------------------------------------------------------------------- training


def terms(config: Plain) -> tuple[dict[str, Term], dict[str, Weight]]:
    """The task loss and the distillation terms of a config, and their weights, by name."""
    loss = config["loss"]
    built = {"task": lookup_term(loss["task"]["kind"])(label_smoothing=config["label_smoothing"])}
    weights = {"task": _weight(loss["task"]["weight"])}
    for name, node in loss["terms"].items():
        options = {key: value for key, value in node.items() if key not in ("kind", "weight", "warmup")}
        built[name] = _term(name, node["kind"], options)
        weights[name] = _weight(node["weight"], node.get("warmup", 0.0))
    return built, weights


def _term(name: str, kind: str, options: Plain) -> Term:
    """A term with its options; those that are courses over the training begin where these begin."""
    if hasattr(nn.ModuleDict(), name):
        raise UsageError(f"loss.terms.{brief(name)}: this name is taken by torch; choose another")
    courses = {key: _course(value) for key, value in options.items() if _is_course(value)}
    term = lookup_term(kind)(**options | {key: course(0.0) for key, course in courses.items()})
    term.courses = courses
    return term


def _weight(value: Any, warmup: float = 0.0) -> Weight:
    """A number, or a function of the share of the training that is done."""
    if not isinstance(value, dict) and not warmup:
        return float(value)
    course = _course(value) if isinstance(value, dict) else lambda done: float(value)
    return lambda done: course(done) * (schedule.between(done, 0.0, 1.0, until=warmup) if warmup else 1.0)


def _is_course(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= {"from", "to", "shape", "until"}


def _course(node: Plain) -> Callable[[float], float]:
    shape, until = node["shape"], node["until"]
    return lambda done: schedule.between(done, node["from"], node["to"], shape, until)


def lookup_term(kind: str) -> type[Term]:
    """The one `Term` that the file `kdrun/losses/<kind>.py` defines."""
    module = lookup.module("losses", kind)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Term)
        and value.__module__ == module.__name__
        and value is not Term
    ]
    if len(found) != 1:
        raise UsageError(f"loss kind {kind!r}: its file must define one Term, and has {len(found)}")
    return found[0]


def learner(
    config: Plain, model: Model, teacher: nn.Module | None, probe: Tensor, train: Split | None = None
) -> Learner:
    """The student with its terms, each term built on both models' outputs for the images of `probe`.

    `train` is the training split, which terms that remember every sample are told of.
    """
    parts, weights = terms(config)
    student = model.tapped().to(probe.device)
    for name, term in parts.items():
        if config["batch_size"] < term.smallest_batch:
            least = f"needs batches of at least {term.smallest_batch}"
            told = f"loss.terms.{name} {least}, and batch_size={config['batch_size']}; raise it, or choose loss=kd"
            raise UsageError(told)
        if train is not None:
            term.remember(train.index, train.targets)
    if teacher is not None and reads_features(config):
        tap(student, config["model"].get("taps"), probe)
        tap(teacher, config["teacher"].get("taps"), probe)
    student_probe, teacher_probe = answers(student, probe), None if teacher is None else answers(teacher, probe)
    if teacher_probe is not None and teacher_probe.logits.shape != student_probe.logits.shape:
        raise UsageError(
            f"teacher {getattr(teacher, 'name', None)} answers with {tuple(teacher_probe.logits.shape[1:])} logits and "
            f"student {student.name} with {tuple(student_probe.logits.shape[1:])}; both need the classes of the data"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"] + 1)  # adapters
        for name, term in parts.items():
            try:
                term.build(student_probe, teacher_probe, teacher)
            except UsageError as error:
                models = f"teacher {getattr(teacher, 'name', None)}, student {student.name}"
                raise UsageError(f"loss.terms.{name}, {models}: {error}") from error
        shipped = _shipped(parts, model, student)
    if shipped is None:
        return Learner(student, parts, weights)
    student = shipped.model.tapped().to(probe.device)
    student.tap(shipped.taps)
    return Learner(student, parts, weights, shipped.model)


def _shipped(parts: dict[str, Term], model: Model, student: Tapped) -> Deployed | None:
    """What a term ships instead of the student, where one does."""
    offers = {name: term.deployed(model, student.taps) for name, term in parts.items()}
    shipped = {name: offer for name, offer in offers.items() if offer is not None}
    if len(shipped) > 1:
        raise UsageError(f"loss.terms.{' and '.join(shipped)} each ship another model; use one of them")
    return next(iter(shipped.values()), None)


def reads_features(config: Plain) -> bool:
    """Does a term of the loss read more of a teacher than its logits?"""
    return any(lookup_term(node["kind"]).features for node in config["loss"]["terms"].values())


def teacher_taps(built: Learner) -> set[str]:
    """The teacher's taps that the terms of a learner read."""
    pairs = [pair for term in built.terms.values() for pair in getattr(term, "pairs", [getattr(term, "pair", None)])]
    return {pair.teacher for pair in pairs if pair is not None}


def tap(model: nn.Module, told: dict[str, str] | None, probe: Tensor) -> None:
    """Have a model answer with its features as well: those of the places that are told, else of those found."""
    if not isinstance(model, Tapped):
        raise TypeError(f"only a Tapped model answers with features, and this is a {type(model).__name__}")
    with _fed(model, probe):
        model.tap(find_taps(model, probe) if told is None else told)


def probe_images(data: Data) -> Tensor:
    """Two training images, enough to see shapes."""
    pixels = data.train.pixels
    rows = data.train.index[:2]
    where = torch.device("cpu") if isinstance(pixels, Files) else pixels.device
    return pixels[rows.to(where)].to(rows.device)


def answers(model: nn.Module, images: Tensor) -> Outputs:
    """What a model answers in eval mode, without gradients. Raises `UsageError` when it cannot read such images."""
    was_training = model.training
    model.eval()
    with torch.no_grad(), _fed(model, images):
        outputs: Outputs = model(images)
    model.train(was_training)
    return outputs


@contextmanager
def _fed(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Raise `UsageError` where a network has no answer for images of this size: torch says what went wrong, not why."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        name, size = getattr(model, "name", type(model).__name__), "x".join(map(str, images.shape[2:]))
        told = brief(str(error).split("\n")[0], 200)
        raise UsageError(
            f"{name} has no answer for images of {size} pixels ({told}); a larger min_size of the model, as 64 or 224, "
            "has them enlarged"
        ) from error


def training(config: Plain, built: Learner, device: str, precision: str) -> Training:
    """The learner on its device, with its optimizer over every parameter of student and terms."""
    node = {key: value for key, value in config["optimizer"].items() if key != "kind"}
    kind = config["optimizer"]["kind"]
    if kind not in OPTIMIZERS:
        raise UsageError(f"optimizer.kind={kind}: allowed: {', '.join(OPTIMIZERS)}")
    if "betas" in node:
        node["betas"] = tuple(node["betas"])
    if node.get("nesterov") and not node.get("momentum"):
        node["nesterov"] = False  # without momentum there is nothing to look ahead with
    place(with_faster_convolutions(built), device, precision)
    parallel.synchronised(built, device)
    if config["device"]["compile"]:
        compile_module(built, device)
    fused = {"fused": True} if device == "cuda" else {}  # one kernel for all parameters
    optimizer = OPTIMIZERS[kind](built.parameters(), **node, **fused)
    return Training(built, optimizer, device, precision, config["ema"]["decay"])


def recipe(config: Plain, device: str, precision: str) -> Recipe:
    node = config["schedule"]
    return Recipe(
        epochs=config["epochs"],
        rate=lambda step, steps: schedule.factor(step, steps, **node),
        device=device,
        precision=precision,
        seed=config["seed"],
        accumulate=config["accumulate"],
        grad_clip=config["grad_clip"],
        report_every=config["log"]["every"],
        norms_every=None if config["device"]["compile"] else 100,  # a compiled graph is run backward once
    )
