"""distill: a student imitates a teacher, and stands next to the same student trained alone."""

from __future__ import annotations

import logging
from pathlib import Path

from kdrun import assembly, processes
from kdrun.datasets.split import Data
from kdrun.gain import gain
from kdrun.identity import baseline_training, identity, teacher_training
from kdrun.loggers import mirrored, require
from kdrun.models.building import Model, build
from kdrun.origins import load_origin
from kdrun.records.fingerprint import fingerprint
from kdrun.records.models import load_model, save_model
from kdrun.records.run import About, Run
from kdrun.records.runs import same_before, unfinished_run
from kdrun.schema import Plain
from kdrun.stages.common import conclude, fill, price, setting, state_files, tell_adapted, use_device
from kdrun.stages.optimise import optimise
from kdrun.stages.quality import known_quality, quality
from kdrun.stages.source import Source, outputs_before
from kdrun.stages.teacher import as_parent, find_teacher
from kdrun.stages.train import ensure, name

log = logging.getLogger("kdrun")


def distill(
    config: Plain,
    data: Data | None = None,
    overrides: list[str] | None = None,
    rebuild: bool = False,
    shared: bool = False,
    anew: bool = False,
) -> Path:
    """Distill the config's teacher into its student, or go on with it, and return the run directory.

    The teacher and the baseline are runs of their own, found by fingerprint or made first (`rebuild`: made again).
    `shared`: other runs will need the same teacher's outputs. `anew`: teacher and baseline are measured, though their
    numbers may be known from other runs.
    Raises `UsageError` before the student's run directory is made when anything does not fit.
    """
    unfinished = processes.told(lambda: unfinished_run(config))
    device = use_device(config)
    require(config)
    data = assembly.read_data(config) if data is None else data
    student = build(assembly.model_spec(config["model"], data, config["dataset"]), config["seed"])
    origin = load_origin(student, config["model"], data.classes)
    here = setting(config, device)
    # before a teacher is trained: a batch too large, a term's name or option that cannot be, images too small
    assembly.train_loader(config, data)
    assembly.terms(config)
    assembly.answers(student.tapped(), assembly.probe_images(data))
    if assembly.reads_features(config) and config["teacher"]["run"] == "auto":
        _refuse_misfit(config, data, student, device)
    teacher = find_teacher(config, data, device, rebuild)
    alone = ensure(baseline_training(config), data, device, "baseline", rebuild)[0] if config["baseline"] else None
    resident = assembly.on_device(data, device)
    source = Source(config, resident, teacher)
    live = source.live
    probe = assembly.probe_images(resident)
    learner = assembly.learner(config, student, live.model, probe, resident.train)
    source.serve(learner, resident, probe)
    student = learner.shipped or student
    parents = {"teacher": teacher.fingerprint, "teacher_precision": live.precision}
    if teacher.top_k is not None:
        parents["teacher_top_k"] = str(teacher.top_k)
    if origin is not None:
        parents["weights"] = origin.fingerprint
    known = fingerprint(identity(config, data.fingerprint, here.precision, parents))
    processes.agreed("experiment", known)
    done, cut_off = processes.told(lambda: same_before(config, known))
    if done is not None:
        return done
    unfinished = unfinished or cut_off
    how = processes.told(lambda: outputs_before(unfinished) or source.choose(shared))
    taught = {"kind": teacher.model.spec["kind"], **teacher.model.spec["options"]}
    about = About(
        stage="distill",
        what=f"{name(taught)}_{name(config['model'])}_{config['dataset']['kind']}",
        config=config,
        fingerprint=known,
        data=assembly.data_record(config, data),
        device=here.record(),
        parents=[teacher.parent] + ([] if alone is None else [as_parent("alone", alone)]),
        overrides=overrides or [],
        places=assembly.places(config),
        facts={"teacher_outputs": how, "teacher_way": source.way.record(), "teacher_weights": teacher.weights},
    )
    with Run.begin(about, unfinished) as run, mirrored(run, config), processes.watched():
        for one in about.parents:
            log.info("%s: %s", one["role"], one.get("run") or one["checkpoint"])
        tell_adapted(run, config, student, origin, data)
        training = assembly.training(config, learner, device, here.precision)
        states = state_files(run, config)
        weights = optimise(run, states, config, training, source.answers(how), resident)
        save_model(run.checkpoint("model"), student, weights)
        fill(student, weights)
        _compare(run, source, how, resident, student, alone, anew)
        run.note(teacher_samples=sum(processes.everyone(live.asked)))
    conclude(states, config)
    return processes.told(lambda: run.path)


def _refuse_misfit(config: Plain, data: Data, student: Model, device: str) -> None:
    """Raise `UsageError` when the loss does not fit the models, before a teacher is trained for it."""
    own = build(assembly.model_spec(teacher_training(config)["model"], data, config["dataset"]))
    resident = assembly.on_device(data, device)
    probe = assembly.probe_images(resident)
    assembly.learner(config, student, own.tapped().to(device), probe, resident.train)


def _compare(run: Run, source: Source, how: str, data: Data, student: Model, alone: Path | None, anew: bool) -> None:
    """The numbers of student, teacher and student alone, side by side, measured on the same data with the same code.

    Those of the latter two are the same in every run with the same teacher: they are taken once, `anew` if asked for.
    """
    config, live, precision = source.config, source.live, run.info["device"]["precision"]
    models, where = {"student": student, "teacher": source.teacher.model}, (live.device, precision)
    reference = source.reference(how, data)
    found = {"student": quality(student, config, data, where, reference)}
    found["teacher"] = known_quality(
        models["teacher"], config, data, (live.device, live.precision), role="teacher", anew=anew
    )
    if alone is not None:
        models["alone"] = load_model(alone)
        found["alone"] = known_quality(models["alone"], config, data, where, reference, role="alone", anew=anew)
    numbers: dict[str, float | None] = {}
    for role, one in found.items():
        prefix = "" if role == "student" else f"{role}/"
        numbers |= {f"{prefix}{name}": value for name, value in one.numbers.items()}
    numbers |= price(models, live.device)
    if alone is not None:
        accuracies = {role: one.numbers["test/accuracy"] for role, one in found.items()}
        numbers |= gain(**accuracies, samples=len(data.test))
    run.summary(numbers)
    run.document("confusion", {role: one.confusion for role, one in found.items()})
    bins, seen = {role: one.calibration for role, one in found.items()}, found["student"].disagreements
    run.document("details", {"classes": list(data.classes), "calibration": bins, "disagreements": seen})
