"""train: one model on labels alone. Teachers, assistants and baselines are such runs."""

from __future__ import annotations

import logging
from pathlib import Path

from kdrun import assembly
from kdrun.canonical import Plain, identity
from kdrun.datasets.split import Data
from kdrun.models.building import build
from kdrun.origins import load_origin
from kdrun.records.fingerprint import file_fingerprint, fingerprint
from kdrun.records.models import save_model
from kdrun.records.run import About, Run, find_completed, refuse_used
from kdrun.stages.common import fill, optimise, price, quality, setting, tell_enlarged, use_device

log = logging.getLogger("kdrun")


def train(config: Plain, data: Data | None = None, overrides: list[str] | None = None) -> Path:
    """Train the config's model and return the run directory.

    Raises `UsageError` before anything is written when model, weights and data do not fit each other.
    """
    refuse_used(config)
    device = use_device(config)
    data = assembly.read_data(config) if data is None else data
    model = build(assembly.model_spec(config["model"], data, config["dataset"]), config["seed"])
    load_origin(model, config["model"], data.classes)
    here = setting(config, device, model.net)
    resident = assembly.on_device(data, device)
    learner = assembly.learner(config, model, None, assembly.probe_images(resident))
    assembly.train_loader(config, data)
    about = About(
        stage="train",
        what=what(config),
        config=config,
        fingerprint=train_fingerprint(config, data, device),
        data=assembly.data_record(config, data),
        device=here.record(),
        overrides=overrides or [],
    )
    with Run.create(about) as run:
        tell_enlarged(run, model, data)
        training = assembly.training(config, learner, device, here.precision)
        weights = optimise(run, config, training, None, resident)
        save_model(run.checkpoint("model"), model, weights)
        fill(model, weights)
        found = quality(model, config, resident, (device, here.precision))
        run.summary({**found.numbers, **price(model, device, "model")})
        run.document("confusion", {"model": found.confusion})
    return run.path


def train_fingerprint(config: Plain, data: Data, device: str) -> str:
    """The identity of such a training, known before it is done."""
    model = build(assembly.model_spec(config["model"], data, config["dataset"]))
    parents = {}
    if config["model"]["checkpoint"] is not None:
        parents["weights"] = file_fingerprint(Path(config["model"]["checkpoint"]))
    elif config["model"]["weights"] is not None:
        parents["weights"] = config["model"]["weights"]
    precision = setting(config, device, model.net).precision
    return fingerprint(identity(config, data.fingerprint, precision, parents))


def ensure(config: Plain, data: Data, device: str, role: str) -> Path:
    """The newest completed run with this config's fingerprint; made now, and said so, if there is none."""
    wanted = train_fingerprint(config, data, device)
    found = find_completed(Path(config["output_dir"]), wanted)
    if found is not None:
        log.info("%s: using %s", role, found)
        return found
    log.info("%s: no completed run has fingerprint %s; training it first", role, wanted[:8])
    return train(config, data)


def what(config: Plain) -> str:
    """The words in a directory's name: model and data."""
    return f"{name(config['model'])}_{config['dataset']['kind']}"


def name(node: Plain) -> str:
    """A short name for a model node."""
    if node["kind"] in ("torchvision", "timm"):
        return str(node["name"])
    numbers = [str(node[key]) for key in ("depth", "width") if key in node]
    return "-".join([node["kind"], *numbers])
