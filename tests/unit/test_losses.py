"""Every loss formula against slow loops in float64, its gradient, and what its paper says of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdrun.losses.hard import hard_loss
from kdrun.losses.kd import KD, kd_loss
from kdrun.losses.logit_mse import logit_mse_loss
from kdrun.losses.prob_mse import prob_mse_loss
from kdrun.losses.soft_ce import soft_ce_loss
from kdrun.losses.squared_error import squared_error_loss
from kdrun.types import Batch, Outputs

SHAPES = [(1, 2), (3, 5), (8, 10), (2, 100)]


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    top = max(row)
    powers = [math.exp((value - top) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def slow_kd(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


def slow_soft_ce(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


def slow_mse(student: list[list[float]], teacher: list[list[float]]) -> float:
    squares = [(a - b) ** 2 for s, t in zip(student, teacher, strict=True) for a, b in zip(s, t, strict=True)]
    return sum(squares) / len(squares)


def slow_hard(student: Tensor, teacher: Tensor) -> float:
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    return -sum(math.log(softmax(s)[max(range(len(t)), key=t.__getitem__)]) for s, t in rows) / len(student)


REFERENCES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], float]]] = {
    "kd": (lambda s, t: kd_loss(s, t, 4.0), lambda s, t: slow_kd(s, t, 4.0)),
    "kd T=1": (lambda s, t: kd_loss(s, t, 1.0), lambda s, t: slow_kd(s, t, 1.0)),
    "soft_ce": (lambda s, t: soft_ce_loss(s, t, 2.5), lambda s, t: slow_soft_ce(s, t, 2.5)),
    "logit_mse": (logit_mse_loss, lambda s, t: slow_mse(s.tolist(), t.tolist())),
    "prob_mse": (
        prob_mse_loss,
        lambda s, t: slow_mse([softmax(row) for row in s.tolist()], [softmax(row) for row in t.tolist()]),
    ),
    "hard": (hard_loss, slow_hard),
}


def pair(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(shape, dtype=torch.float64), 3 * torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", REFERENCES)
def test_value_is_that_of_slow_loops(name: str, shape: tuple[int, int]) -> None:
    fast, slow = REFERENCES[name]
    student, teacher = pair(shape)
    assert fast(student, teacher).item() == pytest.approx(slow(student, teacher), rel=1e-10)


@pytest.mark.parametrize("name", REFERENCES)
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    student, teacher = pair((4, 6))
    assert torch.autograd.gradcheck(lambda s: REFERENCES[name][0](s, teacher), student.requires_grad_())


@pytest.mark.parametrize("name", REFERENCES)
def test_batch_order_does_not_matter(name: str) -> None:
    student, teacher = pair((7, 5))
    order = torch.randperm(7)
    fast = REFERENCES[name][0]
    assert fast(student[order], teacher[order]).item() == pytest.approx(fast(student, teacher).item(), rel=1e-12)


@pytest.mark.parametrize("name", ["kd", "kd T=1", "logit_mse", "prob_mse"])
def test_zero_when_the_student_is_the_teacher(name: str) -> None:
    logits, _ = pair((5, 9))
    assert REFERENCES[name][0](logits, logits.clone()).item() == pytest.approx(0, abs=1e-12)


def test_soft_ce_floor_is_the_teachers_entropy_and_its_gradient_is_that_of_kd() -> None:
    student, teacher = pair((6, 4))
    entropy = -sum(p * math.log(p) for row in teacher.tolist() for p in softmax(row, 3.0)) / 6
    assert soft_ce_loss(teacher, teacher, 3.0).item() == pytest.approx(9 * entropy)
    gradients = []
    for loss in (kd_loss, soft_ce_loss):
        leaf = student.clone().requires_grad_()
        loss(leaf, teacher, 3.0).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_kd_at_high_temperature_is_matching_of_centred_logits() -> None:
    student, teacher = pair((5, 8))
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    limit = centred.pow(2).sum(1).mean() / (2 * 8)  # Hinton et al. 2015, section 2.1
    assert kd_loss(student, teacher, 1e3).item() == pytest.approx(limit.item(), rel=1e-2)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.3, 50), st.floats(-30, 30), st.integers(2, 12))
def test_kd_is_at_least_zero_and_blind_to_a_shift(temperature: float, shift: float, classes: int) -> None:
    student, teacher = pair((3, classes))
    value = kd_loss(student, teacher, temperature).item()
    assert value >= -1e-9
    assert kd_loss(student + shift, teacher, temperature).item() == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_the_gradient_of_kd_keeps_its_size_when_the_temperature_rises() -> None:
    student, teacher = pair((8, 10))
    sizes = []
    for temperature in (10.0, 20.0, 40.0):
        leaf = student.clone().requires_grad_()
        kd_loss(leaf, teacher, temperature).backward()
        assert leaf.grad is not None
        sizes.append(leaf.grad.norm().item())
    assert max(sizes) / min(sizes) < 1.5  # without T² it would fall by 16


def test_squared_error_takes_class_numbers_and_soft_classes() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    expected = ((0.5 - 0) ** 2 + (-1.0 - 0) ** 2 + (2.0 - 1) ** 2) / 3
    assert squared_error_loss(logits, torch.tensor([2])).item() == pytest.approx(expected)
    soft = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    assert squared_error_loss(logits, soft).item() == pytest.approx(expected)
    smooth = [0.1 / 3, 0.1 / 3, 0.9 + 0.1 / 3]
    told = sum((a - b) ** 2 for a, b in zip(logits[0].tolist(), smooth, strict=True)) / 3
    assert squared_error_loss(logits, torch.tensor([2]), 0.1).item() == pytest.approx(told)


def test_a_term_that_needs_a_teacher_says_so() -> None:
    batch = Batch(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), torch.arange(2))
    with pytest.raises(TypeError, match="needs a teacher"):
        KD()(Outputs(torch.zeros(2, 3)), None, batch)
