"""The table of pairs in docs/methods.md: every loss on six pairs of models builds without configuration, and trains.

For each loss, pair and seed a student is trained for three epochs on real digits by the term of the loss's own YAML
alone, since labels may pull the other way, and the term is measured on held-out digits before and after. What is done
is kept in a file, so that it can be stopped and started again.

    python scripts/pairs_table.py [--seeds 0 1 2] [--only at crd …] [--file outputs/pairs.json]
                                  [--minutes 30] [--write]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from tables import put, where_made
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from kdrun import assembly
from kdrun.config import stage_config
from kdrun.datasets import digits
from kdrun.datasets.loader import PlainLoader
from kdrun.datasets.split import Data, split
from kdrun.engine import fit
from kdrun.errors import KdrunError, UsageError
from kdrun.learner import Learner
from kdrun.lookup import conf_dir
from kdrun.models.building import Model, build
from kdrun.teachers.live import LiveTeacher
from kdrun.terms import kinds

ROOT = Path(__file__).resolve().parents[1]
PAIRS = [  # the slowest last
    ("resnet20", "resnet8"),
    ("wrn_16_2", "vgg8"),
    ("mlp", "mlp"),
    ("vit", "cnn"),
    ("cnn", "vit"),
    ("resnet50", "mobilenet_v2"),
]
LIMIT, OF_THE_SLOWEST, EPOCHS, TEACHER_EPOCHS, HELD_OUT = 480, 240, 3, 6, 144
RECIPE = ["batch_size=16", "optimizer=adamw", "optimizer.lr=0.001", "grad_clip=10.0"]  # one for all
GAME = {"adversarial"}  # whose value is no distance from the teacher: see its file


class SmallViT(nn.Module):
    """Torchvision's transformer for 8x8 images: patches of 2x2, four blocks of width 48."""

    def __init__(self) -> None:
        super().__init__()
        self.net = VisionTransformer(8, 2, 4, 4, 48, 96, num_classes=10)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.expand(-1, 3, -1, -1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=sorted(kinds()))
    parser.add_argument("--file", type=Path, default=Path("outputs/pairs.json"))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no training after so long")
    parser.add_argument("--write", action="store_true", help="put the table into docs/methods.md")
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(options.file.read_text()) if options.file.exists() else {}
    until = time.monotonic() + 60 * options.minutes
    for teacher, student in PAIRS:
        limit = OF_THE_SLOWEST if (teacher, student) == PAIRS[-1] else LIMIT
        data = split(digits.read(Path(), False), 0.1, 0, limit)
        wanted = [(loss, seed) for loss in options.only for seed in options.seeds]
        missing = [one for one in wanted if key(teacher, student, *one) not in found]
        taught = trained_teacher(teacher, data) if missing and time.monotonic() < until else None
        for loss, seed in missing:
            if taught is None or time.monotonic() > until:
                break
            found[key(teacher, student, loss, seed)] = outcome(loss, taught, student, data, seed)
            print(key(teacher, student, loss, seed), found[key(teacher, student, loss, seed)], file=sys.stderr)
            options.file.parent.mkdir(parents=True, exist_ok=True)
            options.file.write_text(json.dumps(found, indent=0))
    text = table(found, options.only, options.seeds)
    print(text)
    if options.write:
        put(ROOT / "docs" / "methods.md", "pairs", text)


def key(teacher: str, student: str, loss: str, seed: int) -> str:
    return f"{teacher} {student} {loss} {seed}"


def model(name: str, data: Data, seed: int) -> Model:
    node = yaml.safe_load((conf_dir() / "model" / f"{'mlp' if name == 'vit' else name}.yaml").read_text())
    origin = dict.fromkeys(("checkpoint", "weights", "rename", "mean", "std", "taps"))
    node = {key: value for key, value in {**node, **origin}.items() if key != "limits"}
    made = build(assembly.model_spec(node, data, {"mean": [0.3], "std": [0.35]}), seed)
    if name == "vit":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.net.net = SmallViT()
    return made


def trained_teacher(name: str, data: Data) -> LiveTeacher:
    config = stage_config("train", [f"epochs={TEACHER_EPOCHS}", "batch_size=16"])
    made = model(name, data, 0)
    learner = assembly.learner(config, made, None, assembly.probe_images(data))
    train(learner, config, data, None)
    return LiveTeacher(made.tapped(), "", "cpu", "fp32")


def outcome(loss: str, teacher: LiveTeacher, student: str, data: Data, seed: int) -> list[float] | str:
    """The term on held-out data before and after, or why it cannot be."""
    config = stage_config("distill", [f"loss={loss}", f"epochs={EPOCHS}", f"seed={seed}", *RECIPE])
    config["loss"]["task"]["weight"] = 0.0
    if not assembly.lookup_term(loss).stays:
        config["loss"]["terms"][loss]["first"] = 0.99  # silent after its phase: all of these epochs are its phase
    try:
        learner = assembly.learner(
            config, model(student, data, seed), teacher.model, assembly.probe_images(data), data.train
        )
        settle(learner, config, data, teacher)
        before = held_out(learner, loss, teacher, data)
        train(learner, config, data, teacher)
        settle(learner, config, data, teacher)
    except UsageError as error:
        return f"refused: {error}"
    except KdrunError as error:
        return f"failed: {error}"
    return [before, held_out(learner, loss, teacher, data)]


def train(learner: Learner, config: dict[str, Any], data: Data, teacher: LiveTeacher | None) -> None:
    training = assembly.training(config, learner, "cpu", "fp32")
    for _ in fit(training, teacher, assembly.train_loader(config, data), assembly.recipe(config, "cpu", "fp32")):
        pass


def settle(learner: Learner, config: dict[str, Any], data: Data, teacher: LiveTeacher) -> None:
    """Give batch norms, also those of adapters, the statistics of the training data; no update."""
    norms = [module for module in learner.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    for batch in assembly.train_loader(config, data).epoch(0):
        with torch.no_grad():
            learner.train()(batch, teacher(batch))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def held_out(learner: Learner, loss: str, teacher: LiveTeacher, data: Data) -> float:
    """The term of this name, mean over batches of held-out digits; a term with phases as in its last one."""
    learner.eval()
    learner.progress(0.5)
    total, batches = 0.0, 0
    torch.manual_seed(0)  # crd draws
    assert data.validation is not None
    for batch in PlainLoader(data.validation, HELD_OUT // 2, 0):
        with torch.no_grad():
            total += learner.terms[loss](learner.student(batch.inputs), teacher(batch), batch).item()
        batches += 1
    return total / batches


def table(found: dict[str, Any], losses: list[str], seeds: list[int]) -> str:
    lines = ["| loss | " + " | ".join(f"{t} → {s}" for t, s in PAIRS) + " |", "|---" * (len(PAIRS) + 1) + "|"]
    for loss in losses:
        cells = []
        for teacher, student in PAIRS:
            results = [found.get(key(teacher, student, loss, seed)) for seed in seeds]
            cells.append(cell([one for one in results if one is not None]))
        lines.append(f"| `{loss}` | " + " | ".join(cells) + " |")
    numbers = ", ".join(map(str, seeds))
    told = (
        f"Times that the term fell on held-out digits, of the seeds run ({numbers}), and its value after {EPOCHS} "
        "epochs over that before, each after a pass over the training images for the statistics of batch norm. "
        f"{LIMIT} training images ({OF_THE_SLOWEST} for {' → '.join(PAIRS[-1])}), {', '.join(RECIPE)}, the term alone "
        "without labels; losses that are silent after their first phase spend the epochs in it. "
        "`refused`: the pair lacks what the loss needs, and is told so. "
        "`adversarial` is a game, whose value need not fall. "
        f"{where_made('pairs_table')}"
    )
    return "\n".join([*lines, "", told])


def cell(results: list[Any]) -> str:
    if not results:
        return "not run"
    if isinstance(results[0], str):
        return results[0].partition(":")[0]
    fell = sum(after < before for before, after in results)
    ratios = [after / before if before else math.nan for before, after in results]
    return f"{fell}/{len(results)} ({sum(ratios) / len(ratios):.2g})"


if __name__ == "__main__":
    main()
