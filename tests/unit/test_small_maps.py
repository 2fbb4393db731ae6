"""Convolutions on maps smaller than their kernel: values and gradients of `Conv2d`, for less work."""

from __future__ import annotations

import copy
import itertools
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from kdrun import assembly
from kdrun.config import stage_config
from kdrun.models import small_maps
from kdrun.models.building import build
from kdrun.models.small_maps import SmallMapConv2d, with_small_maps
from tests.conftest import mutated

MAPS = [(1, 1), (2, 2), (3, 3), (4, 4), (1, 3), (4, 2), (7, 7)]
GROUPS = {"plain": 1, "grouped": 2, "depthwise": 6}


def values_and_gradients(convolution: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = convolution(x)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(weight.grad for weight in convolution.parameters())]  # type: ignore[list-item]


def check_equal(module: ModuleType, groups: int) -> None:
    for size, stride, bias, side in itertools.product((3, 5, 7), (1, 2), (True, False), MAPS):
        plain = nn.Conv2d(6, 6, size, stride, size // 2, groups=groups, bias=bias).double()
        small = module.with_small_maps(copy.deepcopy(plain))
        assert type(small) is module.SmallMapConv2d
        x = torch.randn(2, 6, *side, dtype=torch.float64)
        for expected, got in zip(values_and_gradients(plain, x), values_and_gradients(small, x), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_values_and_gradients_are_those_of_the_convolution(groups: int) -> None:
    check_equal(small_maps, groups)


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_a_kernel_cropped_too_far_is_noticed(groups: int) -> None:
    with pytest.raises(AssertionError):
        check_equal(mutated(small_maps, "2 * side - 1", "side | 1"), groups)


def test_a_depthwise_map_enlarged_too_little_is_noticed() -> None:
    wrong = mutated(small_maps, "-(-height // self.stride[0])", "height // self.stride[0]")
    with pytest.raises((AssertionError, RuntimeError)):
        check_equal(wrong, 6)


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 2, padding=1),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, (3, 1), padding=(1, 0)),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(4, 4, 3, padding=1),
    ],
    ids=str,
)
def test_other_convolutions_stay(other: nn.Module) -> None:
    assert type(with_small_maps(other)) in (nn.Conv2d, nn.ConvTranspose2d)


def test_what_is_measured_is_the_convolution_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    small = with_small_maps(nn.Conv2d(4, 4, 3, padding=1)).eval()
    monkeypatch.setattr(small_maps.F, "conv2d", None)  # which only the other way calls by this name
    with pytest.raises(TypeError):
        small.train()(torch.randn(1, 4, 1, 1))
    monkeypatch.undo()
    monkeypatch.setattr(nn.Conv2d, "forward", lambda *_: "plain")
    assert small.eval()(torch.randn(1, 4, 1, 1)) == "plain"


def test_what_trains_has_them_and_what_is_built_has_not() -> None:
    config = stage_config("train", ["model=mobilenet", "dataset.limit=40"])
    data = assembly.read_data(config)
    model = build(assembly.model_spec(config["model"], data, config["dataset"]))
    assert not [module for module in model.net.modules() if isinstance(module, SmallMapConv2d)]
    learner = assembly.learner(config, model, None, assembly.probe_images(data))
    assembly.training(config, learner, "cpu", "fp32")
    assert len([module for module in model.net.modules() if isinstance(module, SmallMapConv2d)]) == 18
