"""The table of equality in docs/scale.md: every loss trained in 1, 2 and 4 processes, and how far apart they end.

Each training has all that several processes could get wrong: a last batch of three, of which some have none, weights
that are averaged (`ema`), gradients that are accumulated, clipped and measured, augmentation, momentum and weight
decay, both phases of a loss that has two. The models have no batch norm; in adapters that have one it is held fixed.
One row more has a student with batch norm, which is local, and not called equal.

    python scripts/equality_table.py [--processes 2 4] [--only rkd kd …] [--write]
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from kdrun import assembly, parallel, processes
from kdrun.config import stage_config
from kdrun.device import place
from kdrun.engine import Recipe, evaluate, fit, results
from kdrun.identity import teacher_training
from kdrun.launch import launch
from kdrun.lookup import conf_dir
from kdrun.models.building import build
from kdrun.teachers.live import LiveTeacher

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scale.md"
LOSSES = sorted(file.stem for file in (conf_dir() / "loss").glob("*.yaml"))
LOCAL = "kd, resnet8: local batch norm"
SAMPLES, BATCH = 83, 16
LIMIT = 1e-5  # of a weight, and of a metric relative to its size: what sums in another order are allowed
MIX = "loss.terms={kd: 0.9, rkd: 1.0, logit_std: 9.0}"
MISTAKES: Mapping[str, Callable[[], Any]] = {  # what several processes would do if they were naive
    "": nullcontext,
    "not gathered": lambda: mock.patch.object(
        parallel, "of_all", lambda student, teacher, batch: (student, teacher, batch)
    ),
    "not weighed": lambda: mock.patch.object(parallel, "weighed", lambda loss, batch: loss),
    "added up twice": lambda: mock.patch.object(processes, "is_first", return_value=True),
}
Found = dict[str, tuple[dict[str, torch.Tensor], dict[str, float]]]  # by case: weights, metrics


class Case(NamedTuple):
    """A training, made up in the first process: to compose a config takes longer than to train with it."""

    name: str
    config: dict[str, Any]
    mistake: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--only", nargs="*", default=LOSSES)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = [Case(name, config_of(name)) for name in arguments.only] + [Case(LOCAL, config_of("kd", "resnet8"))]
    alone = trained(cases)
    others = {several: launch(several, trained, cases) for several in arguments.processes}
    text = table(alone, others)
    print(text)
    if arguments.write:
        from tables import put

        put(PAGE, "equality", text)


def config_of(loss: str, student: str = "cnn_tiny") -> dict[str, Any]:
    role, stage = ("model", "train") if loss == "labels" else ("student", "distill")
    words = [f"{role}={student}", f"loss={loss}", f"batch_size={BATCH}", "augment=[crop]", f"dataset.limit={SAMPLES}"]
    words += [MIX] if loss == "mix" else []
    words += ["teacher=cnn"] if stage == "distill" else []
    return {**stage_config(stage, words), "ema": {"decay": 0.9}}


def trained(cases: Sequence[Case]) -> Found:
    """Carry out the trainings in as many processes as this one was started with."""
    with processes.together("cpu"):
        found = {}
        for case in cases:
            with MISTAKES[case.mistake]():
                found[case.name] = _trained(case.config, hold=case.name != LOCAL)
        return found


def _trained(config: dict[str, Any], hold: bool) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    data = assembly.read_data(config)
    teacher = None
    if config["stage"] == "distill":
        model = build(assembly.model_spec(teacher_training(config)["model"], data, config["dataset"]), 1)
        teacher = LiveTeacher(model.tapped(), "", "cpu", "fp32")
    model = build(assembly.model_spec(config["model"], data, config["dataset"]), 0)
    seen = None if teacher is None else teacher.model
    learner = place(assembly.learner(config, model, seen, assembly.probe_images(data), data.train), "cpu", "fp32")
    if hold:
        _hold_batch_norms(learner)
    training = assembly.training(config, learner, "cpu", "fp32")
    recipe = Recipe(2, lambda step, steps: 1 - step / steps, "cpu", "fp32", 0, 2, 1.0, report_every=2, norms_every=2)
    lines: dict[str, float] = {}
    for report in fit(training, teacher, assembly.train_loader(config, data), recipe):
        lines |= {f"{report.epoch} {name}": value for name, value in report.metrics.items()}
    loader = assembly.plain_loader(config, data.test)
    totals = evaluate(training.student, loader, assembly.metrics(), ("cpu", "fp32"), teacher)
    weights = {**learner.state_dict(), **{f"ema.{key}": one for key, one in training.student.state_dict().items()}}
    return {key: one.clone() for key, one in weights.items()}, lines | results(totals, assembly.metrics())


def _hold_batch_norms(learner: torch.nn.Module) -> None:
    for norm in parallel.norms(learner):
        norm.eval()
        norm.train = lambda mode=True, norm=norm: norm  # type: ignore[method-assign,misc,assignment]


def apart(one: Found, other: Found, name: str) -> tuple[float, float]:
    """The largest difference of a weight, and of a metric relative to its size where that is above 1."""
    (weights, metrics), (again, others) = one[name], other[name]
    assert weights.keys() == again.keys()
    assert metrics.keys() == others.keys()
    of_weights = max((weights[key].double() - again[key].double()).abs().max().item() for key in weights)
    sizes = [abs(metrics[key] - others[key]) / max(1.0, abs(metrics[key])) for key in metrics]
    return of_weights, max(sizes)


def table(alone: Found, others: Mapping[int, Found]) -> str:
    lines = ["| loss | " + " | ".join(f"{n} processes: weights | metrics" for n in others) + " | |"]
    lines.append("|---|" + "---|---|" * len(others) + "---|")
    for name in alone:
        found = [apart(alone, other, name) for other in others.values()]
        verdict = "not promised" if name == LOCAL else "equal" if max(map(max, found)) <= LIMIT else "**not equal**"
        lines.append(f"| {name} | " + " | ".join(f"{w:.1e} | {m:.1e}" for w, m in found) + f" | {verdict} |")
    text = f"Largest differences from one process after 12 batches of {BATCH}, two of them of 3; limit {LIMIT:g}."
    where = (
        f"{date.today()}, kdrun {version('kdrun')}, torch {version('torch')}, {platform.machine()}, gloo, one thread"
    )
    return "\n".join([*lines, "", f"{text} {where}. Made by `scripts/equality_table.py`."])


if __name__ == "__main__":
    main()
