"""Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", 1412.6550: the paper's own two stages.

First phase: the student up to its middle stage, and the regressor, learn the hint alone. Second phase: the other terms
of the loss alone, which are the labels and `kd`, as in the paper. The formula is that of `fitnet`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from kdrun.losses.fitnet import FitNet
from kdrun.losses.term import Term
from kdrun.types import Batch, Outputs


class FitNetTwoStage(Term):
    features = True
    stays = False

    def __init__(self, first: float = 30 / 270, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.first = first
        self.hint = FitNet(pairs)

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        self.hint.build(student_probe, teacher_probe, teacher)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return self.hint(student, teacher, batch)
