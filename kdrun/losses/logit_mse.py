"""Ba, Caruana 2014, "Do Deep Nets Really Need to be Deep?", 1312.6184: regression on the logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.term import Term, teacher_logits
from kdrun.types import Batch, Outputs


def logit_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over batch and classes of `(student - teacher)²`; logits `(B, C)`."""
    return F.mse_loss(student, teacher)


class LogitMSE(Term):
    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return logit_mse_loss(student.logits, teacher_logits(teacher))
