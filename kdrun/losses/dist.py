"""Huang, You, Wang, Qian, Xu 2022, "Knowledge Distillation from A Stronger Teacher", 2205.10536 (DIST).

A strong teacher's probabilities are hard to reach; it is enough that the student's are correlated with them, among the
classes of a sample and among the samples of a class. Correlation forgives any shift and scale of the probabilities.

Default: both parts 1, weight 2, temperature 4, tuned on CIFAR-100; temperature 1 on ImageNet. The factor T² is not in
the paper and in the authors' code; it keeps the gradient's size when the temperature changes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.term import Term, teacher_logits
from kdrun.types import Batch, Outputs


def dist_loss(student: Tensor, teacher: Tensor, temperature: float, within: float, across: float) -> Tensor:
    """`T² · [within · (1 - mean_b ρ(p_s[b, :], p_t[b, :])) + across · (1 - mean_c ρ(p_s[:, c], p_t[:, c]))]`.

    student, teacher: logits `(B, C)`. In a batch of one there is nothing to correlate across samples: ρ is 0 there.
    """
    p_student, p_teacher = F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    of_samples = 1 - correlation(p_student, p_teacher, dim=1).mean()
    of_classes = 1 - correlation(p_student, p_teacher, dim=0).mean()
    return temperature**2 * (within * of_samples + across * of_classes)


def correlation(one: Tensor, other: Tensor, dim: int) -> Tensor:
    """Pearson's ρ along an axis; 0 where either does not vary."""
    one, other = (values - values.mean(dim=dim, keepdim=True) for values in (one, other))
    return F.cosine_similarity(one, other, dim=dim)


class DIST(Term):
    relational = True

    def __init__(self, temperature: float = 4.0, within: float = 1.0, across: float = 1.0) -> None:
        super().__init__()
        self.temperature, self.within, self.across = temperature, within, across

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return dist_loss(student.logits, teacher_logits(teacher), self.temperature, self.within, self.across)
