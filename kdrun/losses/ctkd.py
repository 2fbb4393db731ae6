"""Li, Li, Yang, Zhao, Song, Luo, Li, Yang 2023, "Curriculum Temperature for Knowledge Distillation", 2211.16231.

`kd` at a temperature that is learned against the student: its gradient is reversed, so it makes the task harder, at
first not at all and then, by a cosine, fully. One temperature for all samples: the paper's global one; its variant with
a network that gives each sample its own is not here. A parameter of the term: optimised and saved with the student.

Default: between 1 and 21, beginning at 15.6; the reversal is full after 10 of 240 epochs; weight 0.9 beside a task
weight of 0.1: the authors' script for resnet56 → resnet20 on CIFAR-100.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdrun.losses.kd import kd_loss
from kdrun.losses.term import Term, teacher_logits
from kdrun.schedule import between
from kdrun.types import Batch, Outputs


def reversed_gradient(values: Tensor, factor: float) -> Tensor:
    """The same values; their gradient times `-factor` (Ganin, Lempitsky 2015, 1409.7495)."""
    return values.detach() - factor * (values - values.detach())


class CTKD(Term):
    def __init__(self, lowest: float = 1.0, span: float = 20.0, curriculum: float = 10 / 240) -> None:
        super().__init__()
        self.lowest, self.span, self.curriculum = lowest, span, curriculum
        self.position = nn.Parameter(torch.ones(()))
        self.factor = 1.0

    def progress(self, done: float) -> None:
        super().progress(done)
        self.factor = between(done, 0.0, 1.0, "cosine", self.curriculum)

    def temperature(self) -> Tensor:
        """`lowest + span · sigmoid(position)`."""
        return self.lowest + self.span * torch.sigmoid(reversed_gradient(self.position, self.factor))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return kd_loss(student.logits, teacher_logits(teacher), self.temperature())
