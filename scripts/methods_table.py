"""The tables of evidence in docs/methods.md: the student alone and each loss, at the same budget, over several seeds.

`mnist`: 2,000 stratified training images, test on all 10,000; the teacher, a larger CNN, is trained on all 60,000.
`digits`: the bundled data set. Every loss at the defaults of its YAML; `--grid` also chooses among a few values for the
five most used, by validation at seed 0 alone. Runs that exist are not run again, so that it can be stopped and started.

    python scripts/methods_table.py [--data mnist digits] [--seeds 0 1 2 3 4] [--only kd dkd …] [--grid]
                                    [--output-dir outputs] [--minutes 30] [--write]
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tables import ROOT, Runs, Summary, percent, put, spread, summary

from kdrun import assembly
from kdrun.config import stage_config
from kdrun.datasets.split import Data
from kdrun.errors import KdrunError
from kdrun.progress import shown
from kdrun.stages.distill import distill
from kdrun.stages.train import ensure
from kdrun.terms import kinds

COMMON = ["student=cnn_tiny", "batch_size=32", "grad_clip=1.0", "teacher=cnn"]
DATA = {
    "mnist": [*COMMON, "dataset=mnist", "dataset.limit=2000", "dataset.validation=0.02", "epochs=12"],
    "digits": [*COMMON, "dataset=digits", "epochs=12", "teacher.train.epochs=12"],
}
TEACHER = {
    "mnist": ["model=cnn", "dataset=mnist", "dataset.validation=0.02", "epochs=3", "batch_size=64"]
}  # on all images, not on the few
GRID: dict[str, dict[str, list[Any]]] = {  # the five most used
    "kd": {"loss.alpha": [0.5, 0.9], "loss.temperature": [2.0, 4.0, 8.0]},
    "dkd": {"loss.terms.dkd.others": [2.0, 8.0], "loss.terms.dkd.temperature": [2.0, 4.0]},
    "at": {"loss.terms.at.weight": [100.0, 1000.0, 10000.0]},
    "fitnet": {"loss.terms.fitnet.weight": [1.0, 10.0, 100.0]},
    "crd": {"loss.terms.crd.weight": [0.2, 0.8, 2.0]},
}
TOLD = (
    "Accuracy in %, mean ± sd over the seeds that the column names; one teacher, one split, part of the training "
    "images held out and the epoch chosen there, the test split read once. Made by `scripts/methods_table.py`."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="*", default=sorted(kinds()))
    parser.add_argument("--grid", action="store_true", help="also choose for the five most used, by validation")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so long")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/methods.md")
    options = parser.parse_args()
    runs = RunsHere(options.output_dir, time.monotonic() + 60 * options.minutes)
    for data in options.data:
        for seed in options.seeds:  # so that what is there when time is up has the same seeds for all
            for loss in options.only:
                runs.numbers(data, [f"loss={loss}", f"seed={seed}"])
        text = table(runs, data, options.only, options.seeds)
        if options.grid:
            text += f"\n\n{grid_table(runs, data, options.seeds)}"
        print(f"{text}\n\n{TOLD}\n")
        if options.write:
            put(ROOT / "docs" / "methods.md", data, f"{text}\n\n{TOLD}")


class RunsHere(Runs):
    """The same, made in this process by one teacher, as long as there is time."""

    def __init__(self, folder: Path, until: float) -> None:
        super().__init__(folder)
        self.until = until
        self.data: dict[str, Data] = {}
        self.teachers: dict[str, list[str]] = {}
        self.known: dict[tuple[str, ...], Summary | None] = {}

    def numbers(self, data: str, words: list[str]) -> Summary | None:
        """None where time is up, or where the loss does not fit the models."""
        wanted = [*DATA[data], *words, *self._teacher(data)]
        if tuple(wanted) not in self.known:
            place = self.find(wanted)
            if place is None and time.monotonic() > self.until:
                return None
            begin = time.monotonic()
            self.known[tuple(wanted)] = self._run(data, wanted) if place is None else summary(place)
            if place is None:
                print(f"{data} {' '.join(words)}: {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
        return self.known[tuple(wanted)]

    def _run(self, data: str, words: list[str]) -> Summary | None:
        config = stage_config("distill", [*words, f"output_dir={self.folder}"])
        if data not in self.data:
            self.data[data] = assembly.read_data(config)
        logging.disable(logging.INFO)
        try:
            return summary(distill(config, self.data[data], words, shared=True))
        except KdrunError as error:
            print(f"{data} {' '.join(words)}: {error}", file=sys.stderr)
            return None
        finally:
            logging.disable(logging.NOTSET)

    def _teacher(self, data: str) -> list[str]:
        if data in TEACHER and data not in self.teachers:
            config = stage_config("train", [*TEACHER[data], f"output_dir={self.folder}"])
            with shown(debug=False):
                place = ensure(config, assembly.read_data(config), "cpu", "teacher")
            self.teachers[data] = [f"teacher.run='{place}'"]
        return self.teachers.get(data, [])


def table(runs: RunsHere, data: str, losses: list[str], seeds: list[int]) -> str:
    found = {loss: [runs.numbers(data, [f"loss={loss}", f"seed={seed}"]) for seed in seeds] for loss in losses}
    sound = {loss: [one for one in results if one is not None] for loss, results in found.items()}
    every = [one for results in sound.values() for one in results]
    teacher = 100 * every[0]["teacher/test/accuracy"]
    pairs = [pair for results in found.values() for pair in zip(seeds, results, strict=True)]
    alone = [100 * value for value in {seed: one["alone/test/accuracy"] for seed, one in pairs if one}.values()]
    lines = ["| loss | test accuracy | minus alone, same seeds | seeds | better than alone |", "|---|---|---|---|---|"]
    lines.append(f"| *alone* | {spread(alone, '{:.2f}')} | | {len(alone)} | |")
    order = sorted(losses, key=lambda loss: -statistics.mean([one["test/accuracy"] for one in sound[loss]] or [0]))
    for loss in order:
        results = sound[loss]
        if not results:
            lines.append(f"| `{loss}` | not run, or does not fit | | 0 | |")
            continue
        gains = [100 * (one["test/accuracy"] - one["alone/test/accuracy"]) for one in results]
        accuracy = percent(results, "test/accuracy")
        better = f"{sum(gain > 0 for gain in gains)}/{len(gains)}"
        lines.append(f"| `{loss}` | {accuracy} | {spread(gains, '{:+.2f}')} | {len(results)} | {better} |")
    samples = f"{int(every[0]['test/samples']):,}"
    return "\n".join([*lines, "", f"Teacher {teacher:.2f} %, n = {samples} test images; `{' '.join(DATA[data])}`."])


def grid_table(runs: RunsHere, data: str, seeds: list[int]) -> str:
    lines = ["| loss | chosen by validation at seed 0 | of | test accuracy | minus alone |", "|---|---|---|---|---|"]
    for loss, axes in GRID.items():
        points = [list(values) for values in itertools.product(*axes.values())]
        words = [[f"{key}={value}" for key, value in zip(axes, point, strict=True)] for point in points]
        tried = [(one, runs.numbers(data, [f"loss={loss}", *one, "seed=0"])) for one in words]
        scored = [(found["val/accuracy"], -found["val/nll"], one) for one, found in tried if found is not None]
        if len(scored) < len(words):
            lines.append(f"| `{loss}` | not run | {len(words)} | | |")
            continue
        best = max(scored, key=lambda one: one[:2])[2]
        results = [runs.numbers(data, [f"loss={loss}", *best, f"seed={seed}"]) for seed in seeds]
        sound = [one for one in results if one is not None]
        gains = [100 * (one["test/accuracy"] - one["alone/test/accuracy"]) for one in sound]
        chosen = ", ".join(word.removeprefix("loss.").removeprefix(f"terms.{loss}.") for word in best)
        accuracy = percent(sound, "test/accuracy")
        lines.append(f"| `{loss}` | {chosen} | {len(words)} | {accuracy} | {spread(gains, '{:+.2f}')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
