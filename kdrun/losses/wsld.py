"""Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang 2021, "Rethinking Soft Labels for Knowledge Distillation", 2102.00650.

A bias-variance view: soft targets help where they lower variance, and harm where the student already does better on a
sample than its teacher. So each sample's `kd` is weighted by how much worse the student is. Weights have no gradient.

Default: temperature 4 with weight 2.25 on CIFAR-100; temperature 2 with weight 2.5 on ImageNet. The authors' code takes
the cross-entropy with soft targets instead of the divergence: another value, the same gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.kd import weighted_kd_loss
from kdrun.losses.term import Term, labels, teacher_logits
from kdrun.types import Batch, Outputs


def sample_weights(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """`1 - exp(-CE_student / CE_teacher)`, `(B,)`, at temperature 1; targets class numbers or soft classes."""
    with torch.no_grad():
        of_student, of_teacher = (F.cross_entropy(z, targets, reduction="none") for z in (student, teacher))
        return -torch.expm1(-of_student / (of_teacher + 1e-7))


class WSLD(Term):
    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        pair = student.logits, teacher_logits(teacher)
        return weighted_kd_loss(*pair, self.temperature, sample_weights(*pair, labels(batch)))
