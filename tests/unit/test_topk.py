"""The k highest logits: what is kept is exact, what is not is shared out."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from kdrun import topk
from tests.conftest import mutated


def keeps_probabilities(module: ModuleType, logits: Tensor, k: int) -> bool:
    """Are the k highest probabilities those of all logits, and do the others share equally what is left?"""
    given, kept = logits.softmax(dim=1), module.shortened(logits, k).logits().softmax(dim=1)
    for row in range(len(logits)):
        ranked = sorted(range(logits.shape[1]), key=lambda c: -float(given[row, c]))
        rest = sum(float(given[row, c]) for c in ranked[k:]) / (logits.shape[1] - k)
        expected = {c: float(given[row, c]) for c in ranked[:k]} | dict.fromkeys(ranked[k:], rest)
        if any(abs(float(kept[row, c]) - value) > 1e-12 for c, value in expected.items()):
            return False
    return True


@pytest.mark.parametrize(("classes", "k"), [(3, 1), (10, 3), (10, 9)])
def test_probabilities_of_the_highest_are_kept_and_the_rest_is_shared(classes: int, k: int) -> None:
    logits = 5 * torch.randn(6, classes, dtype=torch.float64)
    assert keeps_probabilities(topk, logits, k)
    if classes - k > 1:
        wrong = mutated(topk, " - math.log(logits.shape[1] - k)", "")
        assert not keeps_probabilities(wrong, logits, k)


def test_shortening_twice_changes_nothing_and_rows_are_those_of_the_whole() -> None:
    short = topk.shortened(torch.randn(7, 12), 4)
    rows = torch.tensor([3, 0, 3])
    assert torch.equal(short[rows], short.logits()[rows])
    assert torch.allclose(topk.shortened(short.logits(), 4).logits(), short.logits(), atol=1e-6)


def test_parts_are_joined_in_their_order() -> None:
    logits = torch.randn(7, 12)
    joined = topk.joined([topk.shortened(part, 4) for part in logits.split(3)])
    assert torch.equal(joined.logits(), topk.shortened(logits, 4).logits())
