"""Touvron et al. 2021, "Training data-efficient image transformers", 2012.12877: hard-label distillation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.term import Term, teacher_logits
from kdrun.types import Batch, Outputs


def hard_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the class the teacher gives the highest logit, mean over the batch; logits `(B, C)`."""
    return F.cross_entropy(student, teacher.argmax(dim=1))


class Hard(Term):
    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return hard_loss(student.logits, teacher_logits(teacher))
