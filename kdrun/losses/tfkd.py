"""Yuan, Tay, Li, Wang, Feng 2020, "Revisiting Knowledge Distillation via Label Smoothing Regularization", 1909.11723.

The teacher-free variant Tf-KD_reg: a virtual teacher that is always right gives `correct` to the right class and the
rest equally to the others. Needs labels; a real teacher, where there is one, is not looked at.

Default: correct 0.99, temperature 20, weight 0.1 beside a task weight of 0.9, tuned on CIFAR-100. Both sides are
softened, as in the paper, and T² is there as in every term of kdrun. The authors' code softens the virtual teacher's
probabilities as if they were logits, which makes them nearly uniform, does not soften the student, divides by C, and
multiplies by a factor of its own for each model: these defaults are those for ResNet-18, where the factor is C.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdrun.losses.kd import kd_loss
from kdrun.losses.term import Term, class_numbers
from kdrun.types import Batch, Outputs


def tfkd_loss(student: Tensor, classes: Tensor, correct: float, temperature: float) -> Tensor:
    """`T² · KL(p_v ‖ p_s)` at temperature T, p_v = `correct` for the class and `(1 - correct) / (C - 1)` for others.

    student: logits `(B, C)`; classes: `(B,)`. Log-probabilities are logits, so they are softened like a teacher's.
    """
    others = math.log((1 - correct) / (student.shape[1] - 1))
    virtual = torch.full_like(student, others).scatter(1, classes[:, None], math.log(correct))
    return kd_loss(student, virtual, temperature)


class TfKD(Term):
    needs_teacher = False

    def __init__(self, correct: float = 0.99, temperature: float = 20.0) -> None:
        super().__init__()
        self.correct, self.temperature = correct, temperature

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return tfkd_loss(student.logits, class_numbers(batch), self.correct, self.temperature)
