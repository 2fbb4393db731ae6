"""Squared error between logits and one-hot labels (Hui, Belkin 2020, 2006.07322), without their rescaling."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.term import Term
from kdrun.types import Batch, Outputs


def squared_error_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean over batch and classes of `(logits - onehot)²`; targets `(B,)` class numbers or `(B, C)` soft classes."""
    classes = logits.shape[1]
    soft = targets if targets.dim() == 2 else F.one_hot(targets, classes)
    soft = soft.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / classes
    return F.mse_loss(logits, soft)


class SquaredError(Term):
    needs_teacher = False

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        assert batch.targets is not None
        return squared_error_loss(student.logits, batch.targets, self.label_smoothing)
