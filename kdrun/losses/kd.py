"""Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", 1503.02531.

Two things that common write-ups of this loss get wrong. `KLDivLoss` averages over every element by default, which
divides by the number of classes too: the sum over classes, averaged over the batch, is `batchmean`. And T² belongs to
the distillation term at every alpha: gradients of soft targets scale as 1/T².

With `confidence` above 0, which is not in the paper, each sample weighs as much as its teacher is sure of it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.term import Term, teacher_logits
from kdrun.types import Batch, Outputs


def confidence_weights(teacher: Tensor, power: float) -> Tensor:
    """`(B,)`: the teacher's largest probability of each sample to this power, over the mean of the batch."""
    weights = F.softmax(teacher, dim=1).amax(dim=1).pow(power)
    return weights / weights.mean()


def weighted_kd_loss(student: Tensor, teacher: Tensor, temperature: float, weights: Tensor) -> Tensor:
    """`T² · mean_b weights[b] · KL(p_t[b] ‖ p_s[b])`; logits `(B, C)`, weights `(B,)`."""
    log_student, log_teacher = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * (weights * divergence).mean()


def kd_loss(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """`T² · KL(softmax(teacher / T) ‖ softmax(student / T))`, summed over classes, mean over the batch.

    student, teacher: logits `(B, C)`; temperature may be a tensor `()`. Zero when they differ by a constant per row.
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


class KD(Term):
    def __init__(self, temperature: float = 4.0, confidence: float = 0.0) -> None:
        super().__init__()
        self.temperature, self.confidence = temperature, confidence

    def progress(self, done: float) -> None:
        super().progress(done)
        self.relational = self.confidence > 0  # weights are over their mean in the batch

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        wanted = teacher_logits(teacher)
        if self.confidence == 0:
            return kd_loss(student.logits, wanted, self.temperature)
        weights = confidence_weights(wanted, self.confidence)
        return weighted_kd_loss(student.logits, wanted, self.temperature, weights)
