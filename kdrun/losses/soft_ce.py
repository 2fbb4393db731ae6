"""Hinton, Vinyals, Dean 2015, 1503.02531: cross-entropy with the teacher's soft targets.

It differs from `kd` by the teacher's entropy, which the student cannot change: the gradient is the same.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.term import Term, teacher_logits
from kdrun.types import Batch, Outputs


def soft_ce_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`T² · (-Σ_c p_teacher log p_student)` at temperature T, mean over the batch; logits `(B, C)`."""
    log_student = F.log_softmax(student / temperature, dim=1)
    soft_targets = F.softmax(teacher / temperature, dim=1)
    return temperature**2 * -(soft_targets * log_student).sum(dim=1).mean()


class SoftCE(Term):
    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return soft_ce_loss(student.logits, teacher_logits(teacher), self.temperature)
