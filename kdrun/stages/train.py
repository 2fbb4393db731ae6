"""train: one model on labels alone. Teachers, assistants and baselines are such runs."""

from __future__ import annotations

import logging
from pathlib import Path

from kdrun import assembly, processes
from kdrun.datasets.split import Data
from kdrun.errors import KdrunError
from kdrun.identity import identity
from kdrun.loggers import mirrored, require
from kdrun.models.building import Model, build
from kdrun.origins import load_origin
from kdrun.records.fingerprint import file_fingerprint, fingerprint
from kdrun.records.lock import one_at_a_time
from kdrun.records.models import load_model, save_model
from kdrun.records.run import About, Run
from kdrun.records.runs import find_completed, find_unfinished, same_before, unfinished_run
from kdrun.schema import Plain
from kdrun.stages.common import conclude, fill, price, setting, state_files, tell_adapted, use_device
from kdrun.stages.optimise import optimise
from kdrun.stages.quality import known_quality

log = logging.getLogger("kdrun")


def train(config: Plain, data: Data | None = None, overrides: list[str] | None = None) -> Path:
    """Train the config's model, or go on with it, and return the run directory.

    Raises `UsageError` before anything is written when model, weights and data do not fit each other.
    """
    unfinished = processes.told(lambda: unfinished_run(config))
    device = use_device(config)
    require(config)
    data = assembly.read_data(config) if data is None else data
    model = build(assembly.model_spec(config["model"], data, config["dataset"]), config["seed"])
    origin = load_origin(model, config["model"], data.classes)
    here = setting(config, device)
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
        places=assembly.places(config),
    )
    processes.agreed("experiment", about.fingerprint)
    done, cut_off = processes.told(lambda: same_before(config, about.fingerprint))
    if done is not None:
        return done
    with Run.begin(about, unfinished or cut_off) as run, mirrored(run, config), processes.watched():
        tell_adapted(run, config, model, origin, data)
        training = assembly.training(config, learner, device, here.precision)
        states = state_files(run, config)
        weights = optimise(run, states, config, training, None, resident)
        save_model(run.checkpoint("model"), model, weights)
        fill(model, weights)
        found = known_quality(model, config, resident, (device, here.precision), role="model", anew=True)
        run.summary({**found.numbers, **price({"model": model}, device)})
        run.document("confusion", {"model": found.confusion})
        run.document("details", {"classes": list(data.classes), "calibration": {"model": found.calibration}})
    conclude(states, config)
    return processes.told(lambda: run.path)  # not before the first one has written everything


def train_fingerprint(config: Plain, data: Data, device: str) -> str:
    """The identity of such a training, known before it is done."""
    parents = {}
    if config["model"]["checkpoint"] is not None:
        parents["weights"] = file_fingerprint(Path(config["model"]["checkpoint"]))
    elif config["model"]["weights"] is not None:
        parents["weights"] = config["model"]["weights"]
    precision = setting(config, device).precision
    return fingerprint(identity(config, data.fingerprint, precision, parents))


def ensure(config: Plain, data: Data, device: str, role: str, rebuild: bool = False) -> tuple[Path, Model]:
    """The newest completed run with this config's fingerprint, and its model; made now, and said so, if there is none.

    A run that was cut off is gone on with; one whose model is damaged is made again, beside it. Of several processes
    that need it, one makes it and the others wait. `rebuild` makes it whatever there is.
    """
    wanted, outputs = train_fingerprint(config, data, device), Path(config["output_dir"])
    with one_at_a_time(outputs, wanted, f"{role}: another process is training it (fingerprint {wanted[:8]}); waiting"):
        found, unfinished = processes.told(lambda: (None, None) if rebuild else _before(outputs, wanted))
        model = None if found is None else _sound(found, role)
        if found is not None and model is not None:
            log.info("%s: using %s", role, found)
            return found, model
        if unfinished is not None:
            log.info("%s: going on with %s, which was cut off", role, unfinished)
            made = train({**config, "run_dir": str(unfinished), "resume": "auto"}, data)
        else:
            if found is None:
                log.info("%s: no completed run has fingerprint %s; training it first", role, wanted[:8])
            made = train(config, data)
    return made, load_model(made)


def _sound(run: Path, role: str) -> Model | None:
    """The model of a run, None where it is damaged."""
    try:
        return load_model(run)
    except KdrunError as error:
        log.info("%s: %s cannot be used and is made again (%s)", role, run, error)
        return None


def _before(outputs: Path, wanted: str) -> tuple[Path | None, Path | None]:
    """The completed run with this fingerprint, or the one to go on with, if any."""
    return find_completed(outputs, wanted), find_unfinished(outputs, wanted)


def what(config: Plain) -> str:
    """The words in a directory's name: model and data."""
    return f"{name(config['model'])}_{config['dataset']['kind']}"


def name(node: Plain) -> str:
    """A short name for a model node."""
    if node["kind"] in ("torchvision", "timm"):
        return str(node["name"])
    numbers = [str(node[key]) for key in ("depth", "width") if key in node]
    return "-".join([node["kind"], *numbers])
