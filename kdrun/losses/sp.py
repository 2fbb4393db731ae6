"""Tung, Mori 2019, "Similarity-Preserving Knowledge Distillation", 1907.09682."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.losses.term import Term
from kdrun.pairing import Pair, both, pair_last
from kdrun.types import Batch, Outputs


def similarities(feature: Tensor) -> Tensor:
    """How alike the samples of a feature `(B, …)` are: the Gram matrix `(B, B)`, each row of norm 1."""
    flat = feature.flatten(1)
    return F.normalize(flat @ flat.T, dim=1)


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """`‖G_student - G_teacher‖² / B²` of features `(B, …)`, whose shapes may differ."""
    return (similarities(student) - similarities(teacher)).pow(2).mean()


class SP(Term):
    features = True
    relational = True
    smallest_batch = 2

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.given = pairs
        self.pair = Pair("", "")

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        self.pair = pair_last(student_probe, teacher_probe, self.given)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return sp_loss(*both(student, teacher, self.pair))
