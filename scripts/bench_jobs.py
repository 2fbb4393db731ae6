"""One measurement of kdrun, or of a loop written by hand: run by `scripts/bench.py` in a process of its own.

    python scripts/bench_jobs.py kdrun resnet56 resnet20 --how live --precision fp32 --size 32 --batch 64 --steps 100
    python scripts/bench_jobs.py bare resnet56 resnet20 …      the shortest loop that does the same to images at hand
    python scripts/bench_jobs.py launch resnet56 resnet20 …    the command line, up to its first optimizer step
    python scripts/bench_jobs.py epochs resnet56 resnet20 …    epochs with their measurements and checkpoints
    python scripts/bench_jobs.py input|loader                  views of a batch; the same by a DataLoader of two workers

Prints one line of JSON.
"""

from __future__ import annotations

import time

BEGIN = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from dataclasses import replace  # noqa: E402
from itertools import islice  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

CLASSES = 100
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=sorted(JOBS))
    parser.add_argument("teacher", nargs="?", default="resnet56")
    parser.add_argument("student", nargs="?", default="resnet20")
    parser.add_argument("--how", choices=["live", "stored", "none"], default="live", help="where the teacher is")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="images and a teacher's weights, of `launch`")
    options = parser.parse_args()
    figures = JOBS[options.what](options)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**figures, "memory": memory}))


class Setting:
    """One pair of models on random images, as a distillation of kdrun's."""

    def __init__(self, options: argparse.Namespace, count: int | None = None) -> None:
        from kdrun import assembly
        from kdrun.config import stage_config
        from kdrun.identity import teacher_training
        from kdrun.models.building import build
        from kdrun.stages.source import Source
        from kdrun.stages.teacher import Taught

        small = options.size == 32
        words = [f"teacher={options.teacher}", f"student={options.student}", f"batch_size={options.batch}"]
        words += ["dataset=cifar100", "augment=[crop,flip]", "dataset.validation=0", "dataset.views=1", "epochs=1000"]
        words += ["device=cpu", f"device.precision={options.precision}", f"device.compile={options.compile}".lower()]
        self.config = stage_config("distill", [*words, "loss.temperature=4", "loss.alpha=0.9"])
        self.folder = tempfile.TemporaryDirectory()
        self.config["output_dir"] = self.folder.name
        self.data = images(count or (640 if small else 160), options.size)
        dataset = self.config["dataset"]
        teacher = build(assembly.model_spec(teacher_training(self.config)["model"], self.data, dataset))
        self.student = build(assembly.model_spec(self.config["model"], self.data, dataset))
        from kdrun.device import pick_precision

        self.precision = pick_precision(self.config["device"]["precision"], "cpu")
        self.source = Source(self.config, self.data, Taught(teacher, "f", self.precision, {}))


def images(count: int, size: int) -> Any:
    import torch

    from kdrun.datasets.raw import Labelled, Raw
    from kdrun.datasets.split import split

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    names = tuple(str(number) for number in range(CLASSES))
    return split(Raw(names, Labelled(pixels, torch.arange(count) % CLASSES)), 0.0, 0, None)


def kdrun(options: argparse.Namespace) -> Figures:
    """Seconds of a step of `fit`, and of filling the store for a sample."""
    from kdrun import assembly
    from kdrun.engine import fit
    from kdrun.stages.common import use_device

    setting = Setting(options)
    use_device(setting.config)  # as every stage does
    begin = time.perf_counter()
    answers = setting.source.answers(options.how)
    fill = (time.perf_counter() - begin) / len(setting.data.train)
    learner = assembly.learner(
        setting.config, setting.student, setting.source.live.model, assembly.probe_images(setting.data)
    )
    training = assembly.training(setting.config, learner, "cpu", setting.precision)
    recipe = assembly.recipe(setting.config, "cpu", setting.precision)
    if options.steps < recipe.report_every:  # few and long ones: those before the first report are not counted
        recipe = replace(recipe, report_every=2)
    loader = assembly.train_loader(setting.config, setting.data)
    ends = (time.perf_counter() for _ in fit(training, answers, loader, recipe, stop=lambda: False))
    return {"fill": fill, **per_step(Ticks(ends, recipe.report_every, len(loader)), options.steps)}


class Ticks:
    """When reports came, and after how many steps."""

    def __init__(self, ends: Iterator[float], every: int, steps: int) -> None:
        self.ends, self.every, self.steps = ends, every, steps

    def __iter__(self) -> Iterator[tuple[int, float]]:
        done, within = 0, 0
        for end in self.ends:
            step = min(self.every, self.steps - within)
            done, within = done + step, (within + step) % self.steps
            yield done, end


def per_step(ticks: Any, steps: int) -> Figures:
    """Seconds of a step, from the first report on: what a first step makes ready is not counted."""
    first: tuple[int, float] | None = None
    for done, now in ticks:
        if first is None:
            first = (done, now)
        elif done - first[0] >= steps:
            return {"step": (now - first[1]) / (done - first[0])}
    raise AssertionError("the training ended early")


def bare(options: argparse.Namespace) -> Figures:
    """The same arithmetic in the same precision and layout, on one batch that lies ready."""
    import torch
    import torch.nn.functional as F

    from kdrun.device import autocast, place

    setting = Setting(options)
    teacher = setting.source.live.model.network.eval()
    student = place(setting.student.net.net, "cpu", setting.precision).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    batch = setting.data.train.pixels[: options.batch].float() / 255
    labels, answers = setting.data.train.targets[: options.batch], torch.randn(options.batch, CLASSES)

    def step() -> float:
        with torch.no_grad(), autocast("cpu", setting.source.live.precision):
            target = teacher(batch).float() if options.how == "live" else answers
        with autocast("cpu", setting.precision):
            logits = student(batch)
        loss = 0.1 * F.cross_entropy(logits.float(), labels) + 0.9 * 16 * F.kl_div(
            F.log_softmax(logits.float() / 4, dim=1), F.softmax(target / 4, dim=1), reduction="batchmean"
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.perf_counter()

    return per_step(((done, step()) for done in range(1, 10**6)), options.steps)


def launch(options: argparse.Namespace) -> Figures:
    """Seconds from the start of the process to the end of the first optimizer step."""
    from kdrun import cli

    words = [f"teacher={options.teacher}", f"student={options.student}", f"batch_size={options.batch}"]
    words += ["dataset=image_folder", f"dataset.path={options.folder / 'images'}", "dataset.validation=0"]
    words += [f"teacher.checkpoint={options.folder / 'teacher.pt'}", "baseline=false", "device=cpu"]
    outputs = tempfile.mkdtemp(dir=options.folder)  # where nothing is known of this teacher yet
    words += ["augment=[crop,flip]", "teacher.outputs=live", f"output_dir={outputs}"]
    sys.argv = ["kdrun", "distill", *words]
    from kdrun import engine

    def first_step(*_: Any) -> None:
        print(json.dumps({"first": time.perf_counter() - BEGIN}), flush=True)
        os._exit(0)

    update = engine._update
    engine._update = lambda *given: (update(*given), first_step())[0]  # type: ignore[assignment]
    raise SystemExit(cli.main())


def epochs(options: argparse.Namespace) -> Figures:
    """Seconds of an epoch of 100 steps with the saves of `checkpoint.every=auto`, and without them."""
    from kdrun import assembly
    from kdrun.engine import fit
    from kdrun.records.run import About, Run
    from kdrun.records.state import StateFiles
    from kdrun.stages.common import use_device
    from kdrun.stages.optimise import Course

    class Silent:
        def epoch(self, *_: Any) -> None:
            return None

    setting = Setting(options, 100 * options.batch)
    use_device(setting.config)
    learner = assembly.learner(
        setting.config, setting.student, setting.source.live.model, setting.data.train.pixels[:2]
    )
    training = assembly.training(setting.config, learner, "cpu", setting.precision)
    recipe = assembly.recipe(setting.config, "cpu", setting.precision)
    loader = assembly.train_loader(setting.config, setting.data)
    about = About("train", "bench", setting.config, "0" * 64, device={"kind": "cpu", "precision": "fp32"})
    with Run.begin(about) as run:
        states = StateFiles(run.path / "checkpoints", "auto")
        course = Course(run, states, setting.config, training, setting.data, recipe)
        begin, saving, count = 0.0, 0.0, 0
        for report in fit(training, setting.source.answers("live"), loader, recipe):
            if not report.finished:
                continue
            course.measure(report, Silent())  # type: ignore[arg-type]
            before = time.perf_counter()
            if states.due(report.epoch + 1):
                course.save()
            now = time.perf_counter()
            if not begin:  # what a first epoch makes ready is not counted
                begin = now
                continue
            saving, count = saving + now - before, count + 1
            if count * len(loader) >= options.steps:
                return {"epoch": (now - begin) / count, "without": (now - begin - saving) / count}
    raise AssertionError("the training ended early")


def views(options: argparse.Namespace) -> Figures:
    """Seconds of a batch that is cropped and flipped as a whole."""
    from kdrun import assembly
    from kdrun.config import stage_config

    words = ["dataset=cifar100", "augment=[crop,flip]", "dataset.validation=0", f"batch_size={options.batch}"]
    loader = assembly.train_loader(stage_config("distill", words), images(6400, options.size))
    batches = (time.perf_counter() for epoch in range(10**6) for _ in loader.epoch(epoch))
    return per_step(enumerate(batches, 1), options.steps)


def loader(options: argparse.Namespace) -> Figures:
    """Seconds of a batch whose images two worker processes crop and flip one by one."""
    from torch.utils.data import DataLoader, TensorDataset
    from torchvision.transforms import v2

    change = v2.Compose([v2.RandomCrop(options.size, padding=4), v2.RandomHorizontalFlip()])

    class Augmented(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return change(image), label

    train = images(6400, options.size).train
    made = DataLoader(Augmented(train.pixels, train.targets), batch_size=options.batch, shuffle=True, num_workers=2)  # type: ignore[arg-type]
    return per_step(enumerate((time.perf_counter() for _ in islice(made, 90)), 1), 80)


JOBS = {"kdrun": kdrun, "bare": bare, "launch": launch, "epochs": epochs, "input": views, "loader": loader}

if __name__ == "__main__":
    main()
