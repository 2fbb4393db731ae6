"""evaluate: the numbers of a trained model on a test split, its own or another of the same classes."""

from __future__ import annotations

import logging
from pathlib import Path

from kdrun import assembly, processes
from kdrun.datasets.split import Data
from kdrun.device import place
from kdrun.engine import results
from kdrun.errors import UsageError
from kdrun.identity import PLACES
from kdrun.loggers import mirrored, require
from kdrun.models.building import Model, build
from kdrun.origins import load_origin, same_classes
from kdrun.records.fingerprint import file_fingerprint, fingerprint
from kdrun.records.models import load_model, model_file
from kdrun.records.run import About, Run
from kdrun.records.runs import read_config, same_before, unfinished_run
from kdrun.saved import checked_run_config
from kdrun.schema import Plain
from kdrun.stages.common import price, setting, use_device
from kdrun.stages.quality import calibration, confusion, totals_on

NOTHING = (
    "nothing to evaluate: give a run directory (kdrun evaluate outputs/distill/…), "
    "or model=<name> model.checkpoint=<file> dataset=<name>"
)
log = logging.getLogger("kdrun")


def evaluate_run(config: Plain, data: Data | None = None, overrides: list[str] | None = None) -> Path:
    """Measure a run's model, a model file, or a model with a checkpoint; return the new run directory.

    Raises `UsageError` when the model's classes are not those of the data.
    """
    unfinished = processes.told(lambda: unfinished_run(config))
    device = use_device(config)
    require(config)
    config = with_dataset(config)
    data = assembly.read_data(config) if data is None else data
    model, source = _model(config, data)
    same_classes(model.spec["classes"], data.classes, str(source))
    here = setting(config, device)
    about = About(
        stage="evaluate",
        what=f"{Path(source).stem}_on_{config['dataset']['kind']}",
        config=config,
        fingerprint=_fingerprint(config, model, source, data, here.precision),
        data=assembly.data_record(config, data),
        device=here.record(),
        parents=[{"role": "model", "run": config["run"], "checkpoint": str(source)}],
        overrides=overrides or [],
        places=assembly.places(config),
    )
    processes.agreed("experiment", about.fingerprint)
    done, cut_off = processes.told(lambda: same_before(config, about.fingerprint))
    if done is not None:
        return done
    with Run.begin(about, unfinished or cut_off) as run, mirrored(run, config), processes.watched():
        adapted = _adaptation(model, data)
        if adapted is not None:
            log.info(adapted)
            run.note(adapted=adapted)
        where = (device, here.precision)
        test = assembly.on_device(data, device).test
        totals = totals_on(test, config, place(model.tapped(), *where), where)
        numbers = {f"test/{key}": value for key, value in results(totals, assembly.metrics()).items()}
        run.summary({**numbers, "test/samples": len(test), **price({"model": model}, device)})
        run.document("confusion", {"model": confusion(totals)})
        run.document("details", {"classes": list(data.classes), "calibration": {"model": calibration(totals)}})
    return processes.told(lambda: run.path)


def _fingerprint(config: Plain, model: Model, source: Path, data: Data, precision: str) -> str:
    """The identity of such a measurement: the weights, what is built of them and how it is fed, and the data."""
    measured = {"weights": file_fingerprint(source), "spec": model.spec, "precision": precision}
    options = {key: value for key, value in config["dataset"].items() if key not in PLACES}
    return fingerprint({**measured, "data": data.fingerprint, "dataset": options})


def _model(config: Plain, data: Data) -> tuple[Model, Path]:
    if config["run"] is not None:
        path = Path(config["run"])
        return load_model(path), model_file(path)
    node = config["model"]
    if "kind" not in node or node["checkpoint"] is None:
        raise UsageError(NOTHING)
    model = build(assembly.model_spec(node, data, config["dataset"]))
    origin = load_origin(model, node, data.classes)
    if origin is None or not origin.complete:
        raise UsageError(f"{node['checkpoint']} has another number of classes than the {len(data.classes)} of the data")
    return model, Path(node["checkpoint"])


def with_dataset(config: Plain) -> Plain:
    """The data set that was asked for, else the one the run was made with."""
    if "kind" in config["dataset"]:
        return config
    if config["run"] is None:
        raise UsageError(NOTHING)
    run = Path(config["run"])
    model_file(run)
    if not run.is_dir():
        raise UsageError(f"which data is {run} for? add dataset=<name>; `kdrun list datasets` shows them")
    saved = checked_run_config(read_config(run), run)
    data_dir = config["data_dir"] or saved.get("data_dir")
    dataset = {**saved["dataset"], "verify": config["dataset"]["verify"] and saved["dataset"]["verify"]}
    return {**config, "dataset": dataset, "data_dir": data_dir}


def _adaptation(model: Model, data: Data) -> str | None:
    """What the model's side does to images unlike those it was trained on, in words; None when nothing."""
    spec = model.spec
    wanted = (spec["channels"], spec["size"], spec["size"])
    if data.shape == wanted:
        return None
    shown = ["x".join(str(side) for side in shape) for shape in (data.shape, wanted)]
    return f"images are adapted on the model's side: {shown[0]} (channels x height x width) becomes {shown[1]}"
