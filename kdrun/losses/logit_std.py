"""Sun, Ren, Li, Wang, Cao 2024, "Logit Standardization in Knowledge Distillation", 2403.01427.

`kd` makes a student copy the size of its teacher's logits, which a small network cannot. Standardised per sample,
only their shape counts, and one temperature suits every sample.

Default: temperature 2, weight 9 beside a task weight of 0.1, tuned on CIFAR-100. The deviation is that of the paper's
formula, divided by C; the authors' code divides by C - 1.
"""

from __future__ import annotations

from torch import Tensor

from kdrun.losses.kd import kd_loss
from kdrun.losses.term import Term, teacher_logits
from kdrun.types import Batch, Outputs

SMALLEST = 1e-7  # deviation, below which logits count as constant


def logit_std_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`kd` on standardised logits `(B, C)`: blind to shift and to positive scale of either."""
    return kd_loss(standardised(student), standardised(teacher), temperature)


def standardised(logits: Tensor) -> Tensor:
    """`(z - mean) / (std + 1e-7)` per row. The variance is kept above zero, where its root has no gradient."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).clamp(min=SMALLEST**2).sqrt()
    return centred / (deviation + SMALLEST)


class LogitStd(Term):
    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return logit_std_loss(student.logits, teacher_logits(teacher), self.temperature)
