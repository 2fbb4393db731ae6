"""Ba, Caruana 2014, 1312.6184: regression on the probabilities, the variant the paper compares with logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.term import Term, teacher_logits
from kdrun.types import Batch, Outputs


def prob_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over batch and classes of the squared difference of the softmaxes; logits `(B, C)`."""
    return F.mse_loss(F.softmax(student, dim=1), F.softmax(teacher, dim=1))


class ProbMSE(Term):
    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return prob_mse_loss(student.logits, teacher_logits(teacher))
