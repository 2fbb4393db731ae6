"""Zhao, Cui, Song, Qiu, Liang 2022, "Decoupled Knowledge Distillation", 2203.08679.

`kd` is a sum of two parts: how sure the teacher is of the correct class, and how it ranks the others; the second is
multiplied with the teacher's doubt, so that it vanishes where the teacher is sure. Here each part has its own weight.

Default: target 1, others 8, temperature 4, tuned on CIFAR-100 for resnet32x4 → resnet8x4 (others 2 to 8 by pair, 0.5 at
temperature 1 on ImageNet); the whole term rises linearly over the first 20 of 240 epochs (`warmup`, see `Learner`).
The authors' code hides the correct class with a logit of -1000; here it is left out, which is exact at any scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.losses.term import Term, class_numbers, teacher_logits
from kdrun.types import Batch, Outputs


def dkd_loss(
    student: Tensor, teacher: Tensor, classes: Tensor, temperature: float, target: float, others: float
) -> Tensor:
    """`T² · [target · KL(b_t ‖ b_s) + others · KL(p̂_t ‖ p̂_s)]`, mean over the batch.

    b: probabilities of the correct class and of all others together; p̂: softmax without the correct class.
    student, teacher: logits `(B, C)`; classes: the correct ones, `(B,)`.
    """
    parts = zip(_decoupled(student / temperature, classes), _decoupled(teacher / temperature, classes), strict=True)
    of_target, of_others = (F.kl_div(s, t, reduction="batchmean", log_target=True) for s, t in parts)
    return temperature**2 * (target * of_target + others * of_others)


class DKD(Term):
    def __init__(self, temperature: float = 4.0, target: float = 1.0, others: float = 8.0) -> None:
        super().__init__()
        self.temperature, self.target, self.others = temperature, target, others

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        pair = student.logits, teacher_logits(teacher)
        return dkd_loss(*pair, class_numbers(batch), self.temperature, self.target, self.others)


def _decoupled(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities `(B, 2)` of the correct class and of the rest, and `(B, C - 1)` within the rest."""
    count = logits.shape[1]
    following = torch.arange(1, count, device=logits.device)
    rest = logits.gather(1, (classes[:, None] + following) % count)
    own = logits.gather(1, classes[:, None])
    both = torch.cat((own, rest.logsumexp(dim=1, keepdim=True)), dim=1)
    return F.log_softmax(both, dim=1), F.log_softmax(rest, dim=1)
