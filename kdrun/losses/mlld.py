"""Jin, Wang, Lin 2023, "Multi-Level Logit Distillation", CVPR 2023.

Three levels, each at several temperatures: the probabilities of a sample (`kd`), the similarities of the samples of a
batch (Gram matrix B × B), and those of the classes (C × C).

Default: temperatures 2 to 6, as in code built on the authors', which trains for 480 epochs at half the usual rate; the
parts of the sum unweighted, task weight 1. The paper shows each sample in a weak and a strong view; a term runs no
model, so it has the one view that teacher and student were shown, of the strength of `augment`. That code also has
masks of the less certain half of samples and classes; since it multiplies them with losses that are averages already,
they halve these and leave nobody out. Here there are none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kdrun.errors import UsageError
from kdrun.losses.kd import kd_loss
from kdrun.losses.term import Term, teacher_logits
from kdrun.types import Batch, Outputs


def mlld_loss(
    student: Tensor, teacher: Tensor, temperatures: Sequence[float], parts: tuple[float, float, float] = (1, 1, 1)
) -> Tensor:
    """`Σ_T [a · T² KL(p_t ‖ p_s) + b · ‖p_s p_sᵀ - p_t p_tᵀ‖² / B + c · ‖p_sᵀ p_s - p_tᵀ p_t‖² / C]`, Frobenius norms.

    student, teacher: logits `(B, C)`; parts: a, b, c.
    """
    levels = [_levels(student, teacher, temperature) for temperature in temperatures]
    return sum(
        (part * level for each in levels for part, level in zip(parts, each, strict=True)), student.new_zeros(())
    )


class MLLD(Term):
    relational = True

    def __init__(
        self,
        temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
        of_samples: float = 1.0,
        of_batch: float = 1.0,
        of_classes: float = 1.0,
    ) -> None:
        super().__init__()
        if not temperatures:
            raise UsageError("mlld needs at least one temperature, as temperatures=[2.0, 4.0]")
        self.temperatures = tuple(temperatures)
        self.of_samples, self.of_batch, self.of_classes = of_samples, of_batch, of_classes

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        parts = self.of_samples, self.of_batch, self.of_classes
        return mlld_loss(student.logits, teacher_logits(teacher), self.temperatures, parts)


def _levels(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    p_student, p_teacher = F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    of_batch = _squares(p_student @ p_student.T - p_teacher @ p_teacher.T) / student.shape[0]
    of_classes = _squares(p_student.T @ p_student - p_teacher.T @ p_teacher) / student.shape[1]
    return kd_loss(student, teacher, temperature), of_batch, of_classes


def _squares(difference: Tensor) -> Tensor:
    return difference.square().sum()
