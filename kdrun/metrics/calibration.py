"""Expected calibration error over 15 bins of equal width (Guo et al. 2017, 1706.04599)."""

from __future__ import annotations

import torch
from torch import Tensor

TASK = "classification"
BINS = 15


def sums(logits: Tensor, targets: Tensor, teacher: Tensor | None) -> Tensor:
    """`(3, BINS)`: samples, summed confidence and correct ones in each bin of confidence."""
    confidence, chosen = logits.double().softmax(dim=1).max(dim=1)
    place = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)  # bins are open below, closed above
    total = torch.zeros(3, BINS, dtype=torch.float64, device=logits.device)
    parts = torch.stack([torch.ones_like(confidence), confidence, (chosen == targets).double()])
    return total.index_add(1, place, parts)


def result(total: Tensor) -> dict[str, float]:
    count, confidence, correct = total
    return {"ece": ((confidence - correct).abs().sum() / count.sum()).item()}
