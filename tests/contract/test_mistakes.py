"""The mistakes of the field, each impossible by a check, and each check shown to fail when the mistake is made.

Every check takes the module it looks at, so that the same check runs on the real one and on one with the mistake put
into its source.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdrun import assembly, engine, learner
from kdrun.config import stage_config
from kdrun.datasets import loader
from kdrun.datasets.augment import crop
from kdrun.datasets.raw import Labelled, Raw
from kdrun.datasets.split import Data, split
from kdrun.datasets.views import Views
from kdrun.losses import Term, kd
from kdrun.losses.cross_entropy import CrossEntropy
from kdrun.models.building import build
from kdrun.stages import optimise
from kdrun.taps import Tapped
from kdrun.teachers.live import LiveTeacher
from kdrun.teachers.stored import StoredTeacher, answers
from kdrun.types import Batch, Outputs
from tests.conftest import mutated

IMAGES, LABELS = torch.randn(24, 5), torch.arange(24) % 3


class Batches:
    """Three batches an epoch; remembers in which mode a model was when each was asked for."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.modes = model, []  # type: ignore[var-annotated]

    def __len__(self) -> int:
        return 3

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        for rows in torch.arange(24).split(8)[start:]:
            self.modes.append(self.model.training)
            yield Batch(IMAGES[rows], LABELS[rows], rows)


def network() -> nn.Module:
    torch.manual_seed(2)
    return Tapped(nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.4), nn.Linear(6, 3)))


def training(module: ModuleType = engine, **terms: Term) -> Any:
    parts = {"task": CrossEntropy(), **terms}
    made = learner.Learner(network(), parts, dict.fromkeys(parts, 1.0))
    return module.Training(made, torch.optim.SGD(made.parameters(), lr=0.1), "cpu", "fp32", None)


def recipe(module: ModuleType, epochs: int) -> Any:
    return module.Recipe(epochs, lambda step, steps: 1.0, "cpu", "fp32", seed=1)


def student_trains_after_validation(module: ModuleType) -> None:
    trained = training(module)
    batches = Batches(trained.learner.student)
    for report in module.fit(trained, None, batches, recipe(module, 3)):
        if report.finished:
            module.evaluate(trained.student, batches.epoch(0), {}, ("cpu", "fp32"))
    in_training = [batches.modes[start : start + 3] for start in (0, 6, 12)]
    assert in_training == [[True] * 3] * 3


def kl_is_summed_over_classes(module: ModuleType) -> None:
    student, teacher = torch.zeros(2, 4), torch.tensor([[9.0, 0, 0, 0], [0, 0, 9.0, 0]])
    p = teacher.softmax(1)
    expected = (p * (p.log() - torch.full((2, 4), 0.25).log())).sum() / 2
    torch.testing.assert_close(module.kd_loss(student, teacher, 1.0), expected)


def temperature_squared_stays_at_every_alpha(module: ModuleType) -> None:
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    batch = Batch(student, torch.arange(4), torch.arange(4))
    for alpha in (0.1, 0.5, 0.9, 1.0):
        parts = {"task": CrossEntropy(), "kd": module.KD(5.0)}
        made = learner.Learner(Tapped(nn.Identity()), parts, {"task": 1 - alpha, "kd": alpha})
        total = made.total(made(batch, Outputs(teacher))[1])
        p, q = (teacher / 5).softmax(1), (student / 5).softmax(1)
        soft = 25 * (p * (p / q).log()).sum(1).mean()
        torch.testing.assert_close(
            total, (1 - alpha) * nn.functional.cross_entropy(student, batch.targets) + alpha * soft
        )


class Scaled(Term):
    """A term with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return (self.scale * student.logits.pow(2)).mean()


def parameters_of_a_loss_are_optimised_and_saved(module: ModuleType) -> None:
    term = Scaled()
    made = module.Learner(network(), {"scaled": term}, {"scaled": 1.0})
    assert any(parameter is term.scale for parameter in made.parameters())
    assert "terms.scaled.scale" in made.state_dict()


def a_learner_saves_its_student_and_no_teacher(module: ModuleType) -> None:
    student = network()
    made = module.Learner(student, {"kd": kd.KD()}, {"kd": 1.0})
    made(Batch(IMAGES, LABELS, torch.arange(24)), Outputs(torch.randn(24, 3)))
    assert sum(tensor.numel() for tensor in made.state_dict().values()) == sum(p.numel() for p in student.parameters())


def small_data() -> Data:
    pixels = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8)
    targets = torch.arange(60) % 3
    pixels += (40 * targets).view(-1, 1, 1, 1).to(torch.uint8)
    return split(Raw(("a", "b", "c"), Labelled(pixels, targets)), validation=0.2, split_seed=0, limit=None)


def small_config(*overrides: str, stage: str = "distill") -> dict[str, Any]:
    words = ["epochs=2", "batch_size=8", *overrides]
    return stage_config(stage, words)


def stored_answers_are_those_to_the_view_that_is_shown(module: ModuleType) -> None:
    live = LiveTeacher(Tapped(nn.Sequential(nn.Flatten(), Scale(), nn.Linear(64, 3))), "f", "cpu", "fp32")
    data = small_data()
    views = Views(data.train, 3, 0, [("crop", crop, {"padding": 2})])
    batches = module.TrainLoader(data.train, views, 8, seed=0, cycle=2)
    index = data.train.index.sort().values
    kept = {view: answers(live, batches.ascending(view, 16)) for view in (0, 1)}
    stored = StoredTeacher(kept, index, "f")
    for epoch in range(4):
        for batch in batches.epoch(epoch):
            torch.testing.assert_close(stored(batch).logits, live(batch).logits)


class Scale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float() / 255


@dataclass
class Paper:
    """A run that writes nothing."""

    info: dict[str, Any] = field(
        default_factory=lambda: {"stage": "train", "device": {"kind": "cpu", "precision": "fp32"}}
    )
    splits: list[Any] = field(default_factory=list)

    def metrics(self, *lines: dict[str, Any]) -> None:
        self.splits += [line["split"] for line in lines]

    def note(self, **facts: Any) -> None:
        self.info.update(facts)


class NoStates:
    """Nothing is saved, and nothing was."""

    def due(self, epoch: int) -> bool:
        return False

    def load(self, take: Any) -> None:
        return None


class Untouchable:
    """A test split that nobody may look at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the test split was read: {name}")


def the_test_split_plays_no_part_in_choosing(module: ModuleType) -> None:
    config, data = small_config("model=mlp", stage="train"), small_data()
    blind = Data(data.train, data.validation, Untouchable(), data.classes, data.shape, "f")  # type: ignore[arg-type]
    node = build(assembly.model_spec(config["model"], data, config["dataset"]))
    made = assembly.learner(config, node, None, assembly.probe_images(data))
    paper = Paper()
    module.optimise(paper, NoStates(), config, assembly.training(config, made, "cpu", "fp32"), None, blind)
    assert paper.splits == ["val", "train", "val", "train"]


def the_learning_rate_is_that_of_the_config(module: ModuleType) -> None:
    data = small_data()
    for name in ("mlp", "resnet8", "mobilenet", "shufflenet_v2_x0_5", "cifar_mobilenet_v2_half"):
        config = small_config(f"model={name}", "optimizer.lr=0.07", "schedule=constant", stage="train")
        node = build(assembly.model_spec(config["model"], data, config["dataset"]))
        made = assembly.learner(config, node, None, assembly.probe_images(data))
        trained = module.training(config, made, "cpu", "fp32")
        assert trained.rates == [0.07]
        report = next(
            engine.fit(trained, None, assembly.train_loader(config, data), assembly.recipe(config, "cpu", "fp32"))
        )
        assert report.lr == 0.07


def going_on_forgets_no_random_numbers(module: ModuleType) -> None:
    def run(epochs: int, state: dict[str, Any] | None = None) -> Any:
        trained = training(module)
        if state is not None:
            trained.load_state_dict(state)
            torch.manual_seed(12345)  # another process, other random numbers
        batches = Batches(trained.learner.student)
        for report in module.fit(trained, None, batches, recipe(module, 4)):
            if report.finished and report.epoch + 1 == epochs:
                break
        return trained

    whole = run(4)
    parts = run(4, run(2).state_dict())
    for one, other in zip(whole.learner.parameters(), parts.learner.parameters(), strict=True):
        assert torch.equal(one, other)


Check = Callable[[ModuleType], None]
MISTAKES: list[tuple[Check, ModuleType, str, str]] = [
    (student_trains_after_validation, engine, "training.learner.train()", "pass"),
    (kl_is_summed_over_classes, kd, 'reduction="batchmean"', 'reduction="mean"'),
    (temperature_squared_stays_at_every_alpha, kd, "return temperature**2 * divergence", "return divergence"),
    (parameters_of_a_loss_are_optimised_and_saved, learner, "nn.ModuleDict(terms)", "dict(terms)"),
    (
        a_learner_saves_its_student_and_no_teacher,
        learner,
        "self.weights = dict(weights)",
        "self.weights = dict(weights); self.teacher = nn.Linear(9, 9)",
    ),
    (
        stored_answers_are_those_to_the_view_that_is_shown,
        loader,
        "rows, view=view, part=part)",
        "rows, view=0, part=part)",
    ),
    (the_test_split_plays_no_part_in_choosing, optimise, "totals_on(self.data.validation", "totals_on(self.data.test"),
    (
        the_learning_rate_is_that_of_the_config,
        assembly,
        "OPTIMIZERS[kind](built.parameters(), **node, **fused)",
        'OPTIMIZERS[kind](built.parameters(), **{**node, "lr": node["lr"] / 5}, **fused)',
    ),
    (going_on_forgets_no_random_numbers, engine, "seed_all(recipe.device, recipe.seed, epoch, step)", "pass"),
]


@pytest.mark.parametrize(("check", "module"), [one[:2] for one in MISTAKES], ids=[one[0].__name__ for one in MISTAKES])
def test_the_mistake_is_not_made(check: Check, module: ModuleType) -> None:
    check(module)


@pytest.mark.parametrize("mistake", MISTAKES, ids=[one[0].__name__ for one in MISTAKES])
def test_the_check_notices_the_mistake(mistake: tuple[Check, ModuleType, str, str]) -> None:
    check, module, before, after = mistake
    wrong = mutated(module, before, after)
    warnings.simplefilter("ignore")  # torch itself warns of one of the mistakes; pytest puts the filters back
    with pytest.raises(AssertionError):
        check(wrong)


def test_a_students_file_holds_the_student_alone(kdrun: Callable[..., Any]) -> None:
    words = ["teacher=cnn", "student=cnn_tiny", "epochs=1", "teacher.train.epochs=1", "baseline=false"]
    run: Path = kdrun("distill", *words).run
    content = torch.load(run / "checkpoints" / "model.pt", weights_only=True)
    fresh = build(content["spec"]).net.net.state_dict()
    assert {key: tuple(value.shape) for key, value in content["state_dict"].items()} == {
        key: tuple(value.shape) for key, value in fresh.items()
    }
