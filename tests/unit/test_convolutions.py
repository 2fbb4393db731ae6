"""Convolutions on maps smaller than their kernel: values and gradients of `Conv2d`, for less work."""

from __future__ import annotations

import copy
import itertools
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdrun import assembly
from kdrun.config import stage_config
from kdrun.models import convolutions, depthwise
from kdrun.models.building import build
from kdrun.models.convolutions import FasterConv2d, with_faster_convolutions
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
        small = module.with_faster_convolutions(copy.deepcopy(plain))
        assert type(small) is module.FasterConv2d
        x = torch.randn(2, 6, *side, dtype=torch.float64)
        for expected, got in zip(values_and_gradients(plain, x), values_and_gradients(small, x), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_values_and_gradients_are_those_of_the_convolution(groups: int) -> None:
    check_equal(convolutions, groups)


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_a_kernel_cropped_too_far_is_noticed(groups: int) -> None:
    with pytest.raises(AssertionError):
        check_equal(mutated(convolutions, "2 * side - 1", "side | 1"), groups)


def test_a_depthwise_map_enlarged_too_little_is_noticed() -> None:
    wrong = mutated(convolutions, "-(-height // self.stride[0])", "height // self.stride[0]")
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
    assert type(with_faster_convolutions(other)) in (nn.Conv2d, nn.ConvTranspose2d)


def test_what_is_measured_is_the_convolution_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    small = with_faster_convolutions(nn.Conv2d(4, 4, 3, padding=1)).eval()
    monkeypatch.setattr(convolutions.F, "conv2d", None)  # which only the other way calls by this name
    with pytest.raises(TypeError):
        small.train()(torch.randn(1, 4, 1, 1))
    monkeypatch.undo()
    monkeypatch.setattr(nn.Conv2d, "forward", lambda *_: "plain")
    assert small.eval()(torch.randn(1, 4, 1, 1)) == "plain"


def test_what_trains_has_them_and_what_is_built_has_not() -> None:
    config = stage_config("train", ["model=mobilenet", "dataset.limit=40"])
    data = assembly.read_data(config)
    model = build(assembly.model_spec(config["model"], data, config["dataset"]))
    assert not [module for module in model.net.modules() if isinstance(module, FasterConv2d)]
    learner = assembly.learner(config, model, None, assembly.probe_images(data))
    assembly.training(config, learner, "cpu", "fp32")
    assert len([module for module in model.net.modules() if isinstance(module, FasterConv2d)]) == 18


def gradients(convolution: nn.Module, x: Tensor, precision: torch.dtype) -> list[Tensor]:
    """Of input and kernel, as of a training in this precision."""
    x, answer = x.clone().requires_grad_(), torch.linspace(-1, 2, 1000)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        y = convolution(x)
    assert y.dtype == precision
    (y.float() * answer[: y.shape[2] * y.shape[3]].view(y.shape[2:])).sum().backward()
    assert x.grad is not None
    return [x.grad, *(weight.grad for weight in convolution.parameters())]  # type: ignore[list-item]


def check_half(module: ModuleType) -> None:
    """Half precision has 8 bits of mantissa: what it gives is near what float32 gives, and of the same types."""
    for size, stride, bias, side in itertools.product((3, 5, 7), (1, 2), (True, False), (8, 9)):
        torch.manual_seed(size)
        convolution = nn.Conv2d(6, 12, size, stride, size // 2, groups=6, bias=bias)
        same = copy.deepcopy(convolution)
        convolution.__class__ = convolutions.FasterConv2d
        x = torch.rand(4, 6, side, side)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(convolutions, "depthwise_conv2d", module.depthwise_conv2d)
            half = gradients(convolution, x, torch.bfloat16)
        for got, expected in zip(half, gradients(same, x, torch.float32), strict=True):
            assert got.dtype == expected.dtype
            torch.testing.assert_close(got, expected, rtol=0, atol=0.02 * float(expected.abs().max()))


def test_gradients_in_half_precision_are_near_those_in_float32() -> None:
    check_half(depthwise)


@pytest.mark.parametrize(
    ("right", "wrong"), [("size - PART)", "size - PART - 1)"), ("(side - 1) * step", "(side - 2) * step")]
)
def test_a_kernel_put_together_wrongly_is_noticed(right: str, wrong: str) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        check_half(mutated(depthwise, right, wrong))


def test_no_gradient_is_asked_for_that_has_no_fast_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: kernels above 3x3, and strided inputs in half precision."""
    asked: list[tuple[int, int, torch.dtype, bool]] = []
    backward = depthwise._backward

    def counted(gradient: Tensor, x: Tensor, kernel: Tensor, stride: tuple[int, int], *rest: Any) -> Any:
        asked.append((kernel.shape[-1], stride[0], gradient.dtype, rest[-1] == depthwise.KERNEL))
        return backward(gradient, x, kernel, stride, *rest)

    monkeypatch.setattr(depthwise, "_backward", counted)
    for size, stride in itertools.product((3, 5), (1, 2)):
        convolution = with_faster_convolutions(nn.Conv2d(6, 6, size, stride, size // 2, groups=6))
        gradients(convolution, torch.rand(2, 6, 8, 8), torch.bfloat16)
    assert [size for size, _, _, of_kernel in asked if of_kernel] == [3] * (1 + 4 + 4)  # 3x3 at stride 1 is torch's own
    inputs = [(size, stride, dtype) for size, stride, dtype, of_kernel in asked if not of_kernel]
    assert inputs == [(3, 2, torch.float32), (5, 1, torch.bfloat16), (5, 2, torch.float32)]


@pytest.mark.slow
def test_they_can_be_compiled() -> None:
    plain = nn.Conv2d(6, 6, 5, 2, 2, groups=6)
    compiled = with_faster_convolutions(copy.deepcopy(plain))
    compiled.compile()
    x = torch.rand(2, 6, 9, 9)
    for got, expected in zip(gradients(compiled, x, torch.float32), gradients(plain, x, torch.float32), strict=True):
        torch.testing.assert_close(got, expected)
