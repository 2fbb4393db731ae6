"""Xu, Hsu, Huang 2018, "Training Shallow and Thin Networks for Acceleration via Knowledge Distillation with Conditional
Adversarial Networks", 1709.00513: a discriminator as the loss.

A small network learns to tell the teacher's logits from the student's, and the student to fool it. Both follow from one
number and one optimizer: the discriminator lowers its cross-entropy, and on the way to the student the gradient is
reversed. So the term is the discriminator's loss, which does not fall when the student gets better: at `2 log 2` the
two cannot be told apart. The paper's discriminator also names the class, and the paper adds the distance of the logits;
neither is here: `logit_mse` in a mix is much like the second.

Default: weight 1 beside a task weight of 1, two hidden layers of 128.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.losses.ctkd import reversed_gradient
from kdrun.losses.term import Term, teacher_logits
from kdrun.types import Batch, Outputs


def adversarial_loss(of_student: Tensor, of_teacher: Tensor) -> Tensor:
    """`-log σ(d_t) - log (1 - σ(d_s))` of what a discriminator says of either, `(B,)`; mean over the batch."""
    return -(F.logsigmoid(of_teacher) + F.logsigmoid(-of_student)).mean()


class Adversarial(Term):
    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.width = width
        self.discriminator: nn.Module = nn.Identity()

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        sizes = [student_probe.logits.shape[1], self.width, self.width, 1]
        layers = [nn.Linear(before, after) for before, after in pairwise(sizes)]
        self.discriminator = nn.Sequential(layers[0], nn.LeakyReLU(0.2), layers[1], nn.LeakyReLU(0.2), layers[2])

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        pair = torch.cat([reversed_gradient(student.logits, 1.0), teacher_logits(teacher)])
        of_student, of_teacher = self.discriminator(pair).squeeze(1).chunk(2)
        return adversarial_loss(of_student, of_teacher)
