"""The task loss of classification: cross-entropy with the labels.

It takes logits. A softmax before it, as some write-ups have it, flattens the gradient and costs accuracy silently.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.term import Term
from kdrun.types import Batch, Outputs


class CrossEntropy(Term):
    needs_teacher = False

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """Targets may be class numbers `(B,)` or soft classes `(B, C)`, as mixed views have them."""
        assert batch.targets is not None
        return F.cross_entropy(student.logits, batch.targets, label_smoothing=self.label_smoothing)
