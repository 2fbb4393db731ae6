"""distill: a student imitates a teacher, and stands next to the same student trained alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun import assembly
from kdrun.canonical import Plain, baseline_training, identity, teacher_training
from kdrun.datasets.split import Data
from kdrun.device import pick_precision
from kdrun.gain import gain
from kdrun.models.building import Model, build
from kdrun.origins import load_origin, same_classes
from kdrun.records.fingerprint import fingerprint
from kdrun.records.models import load_model, save_model
from kdrun.records.run import About, Run, completed, unfinished_run
from kdrun.stages.common import conclude, fill, price, quality, setting, state_files, tell_enlarged, use_device
from kdrun.stages.optimise import optimise
from kdrun.stages.train import ensure, name
from kdrun.teachers.live import LiveTeacher
from kdrun.teachers.stored import StoredTeacher

log = logging.getLogger("kdrun")


def distill(config: Plain, data: Data | None = None, overrides: list[str] | None = None, rebuild: bool = False) -> Path:
    """Distill the config's teacher into its student, or go on with it, and return the run directory.

    The teacher and the baseline are runs of their own, found by fingerprint or made first (`rebuild`: made again).
    Raises `UsageError` before the student's run directory is made when anything does not fit.
    """
    unfinished = unfinished_run(config)
    device = use_device(config)
    data = assembly.read_data(config) if data is None else data
    student = build(assembly.model_spec(config["model"], data, config["dataset"]), config["seed"])
    origin = load_origin(student, config["model"], data.classes)
    here = setting(config, device, student.net)
    assembly.train_loader(config, data)
    teacher = _teacher(config, data, device, rebuild)
    alone = ensure(baseline_training(config), data, device, "baseline", rebuild) if config["baseline"] else None
    live = LiveTeacher(teacher.model.tapped(), teacher.fingerprint, device, teacher.precision)
    resident = assembly.on_device(data, device)
    probe = assembly.probe_images(resident)
    learner = assembly.learner(config, student, live.model, probe)
    parents = {"teacher": teacher.fingerprint, "teacher_precision": teacher.precision}
    if origin is not None:
        parents["weights"] = origin.fingerprint
    taught = {"kind": teacher.model.spec["kind"], **teacher.model.spec["options"]}
    about = About(
        stage="distill",
        what=f"{name(taught)}_{name(config['model'])}_{config['dataset']['kind']}",
        config=config,
        fingerprint=fingerprint(identity(config, data.fingerprint, here.precision, parents)),
        data=assembly.data_record(config, data),
        device=here.record(),
        parents=[teacher.parent] + ([] if alone is None else [_parent("alone", alone)]),
        overrides=overrides or [],
        places=assembly.places(config),
    )
    with Run.begin(about, unfinished) as run:
        for parent in about.parents:
            log.info("%s: %s", parent["role"], parent.get("run") or parent["checkpoint"])
        tell_enlarged(run, student, data)
        training = assembly.training(config, learner, device, here.precision)
        states = state_files(run, config)
        weights = optimise(run, states, config, training, _answers(live, config, resident), resident)
        save_model(run.checkpoint("model"), student, weights)
        fill(student, weights)
        _compare(run, config, resident, student, live, teacher.model, alone)
    conclude(states, config)
    return run.path


@dataclass(frozen=True)
class Taught:
    """The teacher's model and where it is from."""

    model: Model
    fingerprint: str
    precision: str
    parent: dict[str, Any]


def _teacher(config: Plain, data: Data, device: str, rebuild: bool) -> Taught:
    """From a run that is named, from a file whose classes are the data's, or from a training found or made."""
    node = config["teacher"]
    if node["run"] != "auto":
        path = Path(node["run"])
        completed(path)
    else:
        own = teacher_training(config)
        model = build(assembly.model_spec(own["model"], data, config["dataset"]), own["seed"])
        origin = load_origin(model, own["model"], data.classes)
        if origin is not None and origin.complete:
            parent = {
                "role": "teacher",
                "checkpoint": node["checkpoint"] or node["weights"],
                "fingerprint": origin.fingerprint,
            }
            known = fingerprint({"weights": origin.fingerprint, "spec": model.spec})
            return Taught(model, known, _precision(config, device, model), parent)
        path = ensure(own, data, device, "teacher", rebuild)
    model = load_model(path)
    same_classes(model.spec["classes"], data.classes, f"teacher {path}")
    return Taught(model, completed(path)["fingerprint"], _precision(config, device, model), _parent("teacher", path))


def _answers(live: LiveTeacher, config: Plain, data: Data) -> LiveTeacher | StoredTeacher:
    """The teacher to train with: asked once per sample where every epoch shows the same views, live otherwise."""
    if config["augment"] or config["epochs"] == 1:
        return live
    log.info("teacher: asked once for each of %d samples: without augmentation its answers stay", len(data.train))
    return StoredTeacher.filled(live, assembly.plain_loader(config, data.train), len(data.train.targets))


def _compare(
    run: Run, config: Plain, data: Data, student: Model, live: LiveTeacher, teacher: Model, alone: Path | None
) -> None:
    """The numbers of student, teacher and student alone, side by side, all measured now on the same data."""
    device, precision = live.device, run.info["device"]["precision"]
    compared = {"student": (student, precision), "teacher": (teacher, live.precision)}
    if alone is not None:
        compared["alone"] = (load_model(alone), precision)
    numbers: dict[str, float | None] = {}
    qualities, matrices = {}, {}
    for role, (model, how) in compared.items():
        found = quality(model, config, data, (device, how), None if role == "teacher" else live)
        prefix = "" if role == "student" else f"{role}/"
        numbers |= {f"{prefix}{key}": value for key, value in found.numbers.items()} | price(model, device, role)
        qualities[role], matrices[role] = found.numbers, found.confusion
    if alone is not None:
        numbers |= gain(
            student=qualities["student"]["test/accuracy"],
            alone=qualities["alone"]["test/accuracy"],
            teacher=qualities["teacher"]["test/accuracy"],
            samples=len(data.test),
        )
    run.summary(numbers)
    run.document("confusion", matrices)


def _precision(config: Plain, device: str, model: Model) -> str:
    return pick_precision(config["device"]["precision"], device, model.net)


def _parent(role: str, path: Path) -> dict[str, Any]:
    return {"role": role, "run": str(path), "fingerprint": completed(path)["fingerprint"], "checkpoint": "model"}
