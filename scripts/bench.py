"""How fast kdrun is, against loops written by hand in this file: ratios in one run, on a machine with no other work.

Each row alternates its two sides, discards rounds that other processes disturbed, and gives medians.

    python scripts/bench.py [--rounds 5] [--steps 100] [--only 'stored*' …] [--json FILE] [--write]
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from kdrun import assembly
from kdrun.config import stage_config
from kdrun.datasets.raw import Labelled, Raw
from kdrun.datasets.split import Data, split
from kdrun.engine import fit
from kdrun.identity import teacher_training
from kdrun.models.building import Model, build
from kdrun.records.run import About, Run
from kdrun.records.state import StateFiles
from kdrun.stages.optimise import Course
from kdrun.stages.teacher import Source, Taught

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
PAIRS = {"resnet56 → resnet20": ("resnet56", "resnet20"), "wrn_40_2 → wrn_16_2": ("wrn_40_2", "wrn_16_2")}
BATCH, SIDE, CLASSES, SAMPLES = 64, 32, 100, 6400
DISTURBED = 0.15  # of a processor, taken by other processes


@dataclass
class Row:
    """A measured ratio: `ours` and `theirs` are medians in `unit`; `goal` is the most the ratio may be."""

    what: str
    ours: float
    theirs: float
    unit: str
    goal: float | None
    rounds: int

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="of a training, in each round")
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of rows")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    rows = list(all_rows(options.rounds, options.steps, options.only))
    text = f"{table(rows)}\n\n{footer(options)}"
    print(text)
    if options.json:
        options.json.write_text(json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows], indent=2) + "\n")
    if options.write:
        marked = re.compile("(<!-- figures -->\n).*(<!-- /figures -->)", re.DOTALL)
        PAGE.write_text(marked.sub(lambda found: f"{found[1]}{text}\n{found[2]}", PAGE.read_text()))


def all_rows(rounds: int, steps: int, only: list[str]) -> Iterator[Row]:
    def wanted(what: str) -> bool:
        return any(fnmatch.fnmatch(what, pattern) for pattern in only)

    for what, words, goal in STARTS:
        if wanted(what):
            yield Row(what, median(seconds(words) for _ in range(max(rounds, 10))), 1.0, "s", goal, max(rounds, 10))
    for pair, names in PAIRS.items():
        setting = Setting(*names)
        sides: dict[str, tuple[Callable[[], float], Callable[[], float], float]] = {
            f"stored, {pair}: step over the bare student's": (
                lambda s=setting: s.kdrun("stored", steps),  # type: ignore[misc]
                lambda s=setting: s.bare(steps, with_teacher=False),  # type: ignore[misc]
                1.03,
            ),
            f"cold fp32, {pair}: step over bare teacher + student": (
                lambda s=setting: s.kdrun("live", steps),  # type: ignore[misc]
                lambda s=setting: s.bare(steps, with_teacher=True),  # type: ignore[misc]
                1.03,
            ),
        }
        for what, (ours, theirs, goal) in sides.items():
            if wanted(what):
                yield compared(what, ours, theirs, goal, rounds, "s/step")
        what = f"checkpoints, {pair}: epoch with over without"
        if wanted(what):
            yield compared(
                what, lambda s=setting: s.epoch("auto"), lambda s=setting: s.epoch(10**5), 1.01, rounds, "s/epoch"
            )  # type: ignore[misc]
    what = "input: views of a batch over a 2-worker DataLoader"
    if wanted(what):
        yield compared(what, input_ours, input_theirs, 1 / 6, rounds, "s/batch")


STARTS = (
    ("start: kdrun --help", ["--help"], 0.06),
    ("start: kdrun distill --cfg job", ["distill", "--cfg", "job"], 0.4),
    ("start: a config error", ["distill", "optimiser.lr=1"], 1.0),
)


def seconds(words: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run([str(Path(sys.executable).with_name("kdrun")), *words], capture_output=True, check=False)
    return time.perf_counter() - begin


def compared(
    what: str, ours: Callable[[], float], theirs: Callable[[], float], goal: float, rounds: int, unit: str
) -> Row:
    """A and B alternated, after one of each to warm up; the median of each over the rounds that nobody disturbed."""
    ours(), theirs()
    kept: list[tuple[float, float]] = []
    for _ in range(3 * rounds):
        before = others()
        begin = time.monotonic()
        pair = (ours(), theirs())
        if (others() - before) / (time.monotonic() - begin) < DISTURBED:
            kept.append(pair)
        if len(kept) == rounds:
            break
    print(f"{what}: {kept}", file=sys.stderr, flush=True)
    if not kept:
        return Row(what, float("nan"), 1.0, unit, goal, 0)
    return Row(what, median(a for a, _ in kept), median(b for _, b in kept), unit, goal, len(kept))


def others() -> float:
    """Seconds of processor time that processes other than this one have had since the system started."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    busy = sum(fields) - fields[3] - fields[4]
    own = os.times()
    return busy / os.sysconf("SC_CLK_TCK") - (own.user + own.system + own.children_user + own.children_system)


# ------------------------------------------------------------------------------------------------------- trainings


def random_data() -> Data:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (SAMPLES, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    names = tuple(str(number) for number in range(CLASSES))
    return split(Raw(names, Labelled(pixels, torch.arange(SAMPLES) % CLASSES)), 0.0, 0, None)


class Setting:
    """One pair of models on random images: kdrun's training and the same written by hand."""

    def __init__(self, teacher: str, student: str) -> None:
        words = [f"teacher={teacher}", f"student={student}", f"batch_size={BATCH}", "dataset=cifar100", "device=cpu"]
        recipe = ["augment=[crop,flip]", "dataset.validation=0", "device.precision=fp32", "dataset.views=1"]
        self.config = stage_config("distill", [*words, *recipe, "epochs=100", "loss.temperature=4", "loss.alpha=0.9"])
        self.folder = tempfile.TemporaryDirectory()
        self.config["output_dir"] = self.folder.name
        self.data = random_data()
        taught = teacher_training(self.config)["model"]
        self.teacher = build(assembly.model_spec(taught, self.data, self.config["dataset"]))

    def student(self) -> Model:
        return build(assembly.model_spec(self.config["model"], self.data, self.config["dataset"]))

    def source(self) -> Source:
        made = Taught(self.teacher, "f", "fp32", {})
        return Source(self.config, self.data, made)

    def kdrun(self, how: str, steps: int) -> float:
        """Seconds per step of `fit`."""
        source, student = self.source(), self.student()
        answers = source.answers(how)
        learner = assembly.learner(self.config, student, source.live.model, assembly.probe_images(self.data))
        training = assembly.training(self.config, learner, "cpu", "fp32")
        recipe = assembly.recipe(self.config, "cpu", "fp32")
        loader = assembly.train_loader(self.config, self.data)
        begin = time.perf_counter()
        for report in fit(training, answers, loader, recipe):
            if report.epoch * len(loader) + report.step >= steps:
                return (time.perf_counter() - begin) / (report.epoch * len(loader) + report.step)
        raise AssertionError("there are more steps in a hundred epochs")

    def bare(self, steps: int, with_teacher: bool) -> float:
        """Seconds per step of the shortest loop that does the same to images that lie ready."""
        student, teacher = self.student().net.train(), self.teacher.net.eval()
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, nesterov=True)
        images, labels = self.data.train.pixels[:BATCH], self.data.train.targets[:BATCH]  # type: ignore[index]
        answers = torch.randn(BATCH, CLASSES)
        begin = time.perf_counter()
        for _ in range(steps):
            if with_teacher:
                with torch.no_grad():
                    answers = teacher(images)
            loss = bare_loss(student(images), answers, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return (time.perf_counter() - begin) / steps

    def epoch(self, every: int | str) -> float:
        """Seconds of an epoch with its metrics and its checkpoint, teacher stored."""
        config = {**self.config, "epochs": 2, "run_dir": None}
        source, student = self.source(), self.student()
        answers = source.answers("stored")
        learner = assembly.learner(config, student, source.live.model, assembly.probe_images(self.data))
        training = assembly.training(config, learner, "cpu", "fp32")
        recipe, loader = assembly.recipe(config, "cpu", "fp32"), assembly.train_loader(config, self.data)
        with Run.begin(About("train", "bench", config, "0" * 64, device={"kind": "cpu", "precision": "fp32"})) as run:
            states = StateFiles(run.path / "checkpoints", every)
            course = Course(run, states, config, training, self.data, recipe)
            begin = time.perf_counter()
            for report in fit(training, answers, loader, recipe):
                if report.finished:
                    course.measure(report, NoBar())  # type: ignore[arg-type]
                    if states.due(report.epoch + 1):
                        course.save()
            return (time.perf_counter() - begin) / 2


class NoBar:
    def epoch(self, *_: Any) -> None:
        return None


def bare_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    log_student, target = F.log_softmax(student / 4, dim=1), F.softmax(teacher / 4, dim=1)
    return 0.1 * F.cross_entropy(student, labels) + 0.9 * 16 * F.kl_div(log_student, target, reduction="batchmean")


# ----------------------------------------------------------------------------------------------------------- input


def input_ours() -> float:
    data = random_data()
    config = stage_config(
        "distill", ["dataset=cifar100", "augment=[crop,flip]", "dataset.validation=0", f"batch_size={BATCH}"]
    )
    loader = assembly.train_loader(config, data)
    begin = time.perf_counter()
    count = sum(1 for _ in loader.epoch(0))
    return (time.perf_counter() - begin) / count


class Augmented(TensorDataset):
    """What a loader of torchvision's does for one image."""

    def __getitem__(self, index: int) -> Any:
        from torchvision.transforms import v2

        image, label = super().__getitem__(index)
        return v2.functional.horizontal_flip(v2.RandomCrop(SIDE, padding=4)(image)), label


def input_theirs() -> float:
    data = random_data()
    loader = DataLoader(Augmented(data.train.pixels, data.train.targets), batch_size=BATCH, shuffle=True, num_workers=2)  # type: ignore[arg-type]
    begin = time.perf_counter()
    count = sum(1 for _ in islice(loader, 50))
    return (time.perf_counter() - begin) / count


# ---------------------------------------------------------------------------------------------------------- output


def table(rows: list[Row]) -> str:
    lines = ["| what | kdrun | bare | ratio | goal | rounds |", "|---|---|---|---|---|---|"]
    for row in rows:
        start = row.what.startswith("start")
        bare = "" if start else f"{row.theirs:.4g} {row.unit}"
        met = "" if row.goal is None else f"{row.goal:.3g}{'' if row.ratio <= row.goal else ' (missed)'}"
        ratio = "" if start else f"{row.ratio:.3f}"
        lines.append(f"| {row.what} | {row.ours:.4g} {row.unit} | {bare} | {ratio} | {met} | {row.rounds} |")
    return "\n".join(lines)


def footer(options: argparse.Namespace) -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("kdrun", "torch"))
    return (
        f"{date.today()}, {packages}, Python {platform.python_version()}, {cpu}, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}; medians of up to {options.rounds} undisturbed rounds of "
        f"{options.steps} steps, batch {BATCH}, {SIDE} px. Made by `scripts/bench.py`."
    )


if __name__ == "__main__":
    main()
