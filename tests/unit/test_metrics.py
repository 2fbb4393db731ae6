"""Metrics against scikit-learn and slow loops, and their being sums: batches never matter."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support, top_k_accuracy_score
from torch import Tensor

from kdrun.metrics import accuracy, calibration, confusion, fidelity, nll

MODULES = [accuracy, nll, calibration, confusion, fidelity]


@pytest.fixture
def sample() -> tuple[Tensor, Tensor, Tensor]:
    return 2 * torch.randn(203, 7), torch.randint(0, 7, (203,)), 2 * torch.randn(203, 7)


@pytest.mark.parametrize("metric", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_batches_add_up_to_the_whole(metric, sample) -> None:  # type: ignore[no-untyped-def]
    logits, targets, teacher = sample
    parts = [metric.sums(*(tensor[rows] for tensor in sample)) for rows in torch.arange(203).split(50)]
    whole = metric.result(metric.sums(logits, targets, teacher))
    assert metric.result(sum(parts)) == pytest.approx(whole, rel=1e-12)


def test_accuracy_top5_and_nll_are_those_of_scikit_learn(sample) -> None:  # type: ignore[no-untyped-def]
    logits, targets, _ = sample
    told = accuracy.result(accuracy.sums(logits, targets, None))
    assert told["accuracy"] == pytest.approx((logits.argmax(1) == targets).double().mean().item())
    assert told["top5"] == pytest.approx(top_k_accuracy_score(targets, logits, k=5))
    probabilities = logits.double().softmax(1)
    assert nll.result(nll.sums(logits, targets, None))["nll"] == pytest.approx(log_loss(targets, probabilities))


def test_macro_numbers_and_confusion_matrix_are_those_of_scikit_learn(sample) -> None:  # type: ignore[no-untyped-def]
    logits, targets, _ = sample
    total = confusion.sums(logits, targets, None)
    assert total.tolist() == confusion_matrix(targets, logits.argmax(1), labels=range(7)).tolist()
    precision, recall, f1, _ = precision_recall_fscore_support(targets, logits.argmax(1), average="macro")
    told = confusion.result(total)
    assert told == pytest.approx({"precision": precision, "recall": recall, "f1": f1})


def test_calibration_error_is_that_of_a_loop(sample) -> None:  # type: ignore[no-untyped-def]
    logits, targets, _ = sample
    bins: list[list[tuple[float, float]]] = [[] for _ in range(15)]
    for row, target in zip(logits.double().softmax(1).tolist(), targets.tolist(), strict=True):
        confidence = max(row)
        bins[math.ceil(confidence * 15) - 1].append((confidence, float(row.index(confidence) == target)))
    gaps = [abs(sum(c for c, _ in members) - sum(hit for _, hit in members)) for members in bins]
    assert calibration.result(calibration.sums(logits, targets, None))["ece"] == pytest.approx(sum(gaps) / 203)


def test_fidelity_is_that_of_a_loop_and_absent_without_a_teacher(sample) -> None:  # type: ignore[no-untyped-def]
    logits, targets, teacher = sample
    assert fidelity.sums(logits, targets, None) is None
    p, q = teacher.double().softmax(1).tolist(), logits.double().softmax(1).tolist()
    divergence = sum(a * math.log(a / b) for x, y in zip(p, q, strict=True) for a, b in zip(x, y, strict=True)) / 203
    told = fidelity.result(fidelity.sums(logits, targets, teacher))
    assert told["kl"] == pytest.approx(divergence)
    assert told["agreement"] == pytest.approx((logits.argmax(1) == teacher.argmax(1)).double().mean().item())
