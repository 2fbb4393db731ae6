"""A folded teacher in half precision: the same answers, or none of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdrun import assembly
from kdrun.config import stage_config
from kdrun.datasets.raw import Labelled, Raw
from kdrun.datasets.split import Data, split
from kdrun.models.building import Model, build
from kdrun.stages import teacher as teacher_stage
from kdrun.stages.source import Source
from kdrun.stages.teacher import Taught
from kdrun.teachers import lowered as module
from kdrun.types import Outputs
from tests.conftest import Answer, mutated

CONVOLUTIONAL = ["resnet8", "wrn_16_2", "vgg8", "cifar_mobilenet_v2_half", "cnn", "mobilenet_v3_small"]
WITHOUT_NORMS = {"resnet8", "vgg8", "cifar_mobilenet_v2_half", "mobilenet_v3_small"}  # all can be folded


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How like a teacher answers is kept in `outputs/`."""
    monkeypatch.chdir(tmp_path)


def data() -> Data:
    pixels = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return split(Raw(("a", "b", "c"), Labelled(pixels, torch.arange(60) % 3)), 0.2, 0, None)


def model(name: str, words: tuple[str, ...] = ()) -> tuple[Model, dict[str, Any]]:
    """A model whose batch norms have seen something, and the config it is the teacher of."""
    config = stage_config("distill", [f"teacher={name}", "student=cnn_tiny", "dataset=cifar10", *words])
    node = {
        key: value
        for key, value in config["teacher"].items()
        if key not in ("run", "outputs", "top_k", "seed", "train")
    }
    made = build(assembly.model_spec(node, data(), config["dataset"]))
    generator = torch.Generator().manual_seed(1)
    for part in made.net.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low in ((part.running_mean, -0.2), (part.running_var, 0.7), (part.weight, 0.7)):
                assert tensor is not None
                tensor.data.uniform_(low, low + 0.6, generator=generator)
    made.net.eval()
    return made, config


def norms(network: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_folded_network_gives_the_same_and_leaves_the_original_alone(name: str) -> None:
    network = model(name)[0].net.net.double()
    before = norms(network)
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected, got = network(x), module.folded(network)(x)
    assert torch.allclose(expected, got, rtol=1e-9, atol=1e-12)
    assert norms(network) == before
    assert (norms(module.folded(network)) == 0) == (name in WITHOUT_NORMS or before == 0)


class ReadTwice(nn.Module):
    """What the convolution gives is read by the norm and by the sum: the norm must not become a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.norm.running_var.fill_(4.0)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.norm(x) + x


class Shared(nn.Module):
    """One convolution with a norm for each of its uses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.first.running_var.fill_(4.0)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(self.first(self.conv(x))))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.net(x) if x.sum() > 0 else -self.net(x)
        return answer


def folds_as_it_was(folding: ModuleType, network: nn.Module) -> bool:
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        return torch.allclose(network.eval()(x), folding.folded(network)(x), atol=1e-6)


@pytest.mark.parametrize("network", [ReadTwice, Shared, Untraceable])
def test_what_cannot_be_folded_stays(network: type[nn.Module]) -> None:
    assert folds_as_it_was(module, network())


@pytest.mark.parametrize(
    ("network", "check"), [(ReadTwice, " or len(before.users) > 1"), (Shared, "once and type(pair[0])")]
)
def test_a_fold_that_does_not_look_who_reads_is_noticed(network: type[nn.Module], check: str) -> None:
    wrong = mutated(module, check, "type(pair[0])" if "once" in check else "")
    assert not folds_as_it_was(wrong, network())


def asked(name: str, *words: str, precision: str = "bf16", folder: Path = Path("outputs")) -> Source:
    made, config = model(name, words)
    return Source({**config, "output_dir": str(folder)}, data(), Taught(made, "f", precision, {}))


def test_below_fp32_a_teacher_is_folded_and_answers_like_itself() -> None:
    source = asked("resnet8")
    assert source.way.folded
    assert source.way.likeness is not None
    assert source.way.likeness.good
    assert norms(source.live.model) == 0
    assert {parameter.dtype for parameter in source.live.model.parameters()} == {torch.bfloat16}
    assert norms(source.teacher.model.net) > 0, "the model itself is evaluated and priced later, as it is"


def test_in_fp32_a_teacher_is_as_it_was_trained() -> None:
    source = asked("resnet8", precision="fp32")
    assert not source.way.folded
    assert source.way.likeness is None
    assert norms(source.live.model) > 0


def test_a_loss_that_reads_features_gets_them_from_the_whole_network() -> None:
    source = asked("resnet8", "loss=mix", "loss.terms={kd: 0.9, at: 1000}")
    assert not source.way.folded
    assert source.way.precision == "bf16"
    assert norms(source.live.model) > 0


def careless(network: nn.Module) -> nn.Module:
    """A fold gone wrong: the last layer's classes are turned round."""
    copied = sound(network)
    last = [part for part in copied.modules() if isinstance(part, nn.Linear)][-1]
    last.weight.data, last.bias.data = last.weight.data.flip(0), last.bias.data.flip(0)
    return copied


sound = module.folded


def falls_back(stage: ModuleType) -> bool:
    made, config = model("resnet8")
    live, way = stage.asked(Taught(made, "f", "bf16", {}), config, data(), "cpu")
    assert way.likeness is not None
    json.dumps(way.record(), allow_nan=False)  # as it is written to run.json
    return way.precision == live.precision == "fp32" and not way.likeness.good


def test_a_lowered_teacher_that_answers_otherwise_is_asked_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "folded", careless)
    assert falls_back(teacher_stage)
    assert not falls_back(mutated(teacher_stage, "if not found.good:", "if False:"))


def test_a_network_that_cannot_compute_in_half_precision_is_asked_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ torch.zeros(x[0].numel(), 3)

    monkeypatch.setattr(module, "folded", lambda _: Stubborn())
    assert falls_back(teacher_stage)


def notices_what_half_precision_loses(stage: ModuleType, folder: Path) -> bool:
    """Logits with a large part in common, for a loss that reads features: the network is the same, and not folded."""
    made, config = model("resnet8", ("loss=mix", "loss.terms={kd: 0.9, at: 1000}"))
    last = [part for part in made.net.modules() if isinstance(part, nn.Linear)][-1]
    last.weight.data += 1000
    live, way = stage.asked(Taught(made, "f", "bf16", {}), {**config, "output_dir": str(folder)}, data(), "cpu")
    return way.precision == live.precision == "fp32"


def test_a_teacher_is_compared_with_itself_in_fp32(tmp_path: Path) -> None:
    assert notices_what_half_precision_loses(teacher_stage, tmp_path / "one")
    before = "return likeness(expected, "  # the mistake: both are asked while half precision is on
    wrong = mutated(teacher_stage, before, f"expected = plain.model(images)\n                {before}")
    assert not notices_what_half_precision_loses(wrong, tmp_path / "two")


def test_likeness_is_what_its_words_say() -> None:
    original = Outputs(torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.0, 5.0]]))
    other = Outputs(torch.tensor([[0.0, 2.0], [0.0, 1.0], [3.0, 1.0], [0.0, 5.0]]))
    p, q = torch.tensor([2.0, 0.0]).softmax(0), torch.tensor([0.0, 2.0]).softmax(0)
    found = module.likeness(original, other)
    assert found.agreement == 0.75
    assert found.divergence == pytest.approx(float((p * (p / q).log()).sum()) / 4)
    assert not replace(found, divergence=None, agreement=1.0).good
    assert module.likeness(original, original).good
    assert module.likeness(original, Outputs(original.logits * torch.nan)).divergence is None


def test_how_a_teacher_computes_is_recorded_and_in_the_key_of_its_outputs(tmp_path: Path) -> None:
    source = asked("resnet8", folder=tmp_path)
    before = source.store.path
    assert json.loads(json.dumps(source.way.record()))["folded"]
    for change in ({"folded": False}, {"compiled": True}):
        source.way = replace(asked("resnet8", folder=tmp_path).way, **change)
        assert source.store_of(data()).path != before


def test_without_a_compiler_nothing_is_compiled(kdrun: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    answer = kdrun("distill", "device.compile=true", "device=cpu")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "no C++ compiler" in answer.err
    assert not list(Path().glob("outputs/*/*"))


@pytest.mark.slow
def test_a_compiled_training_learns_the_same(kdrun: Callable[..., Answer]) -> None:
    words = ["teacher=resnet8", "student=cnn_tiny", "epochs=3", "teacher.train.epochs=2", "device=cpu"]
    plain, compiled = (kdrun("distill", *words, f"device.compile={flag}").run for flag in ("false", "true"))
    numbers = [json.loads((run / "summary.json").read_text()) for run in (plain, compiled)]
    assert numbers[0]["test/nll"] == pytest.approx(numbers[1]["test/nll"], rel=0.02)
    assert json.loads((compiled / "run.json").read_text())["teacher_way"]["compiled"]
