"""Peng et al. 2019, "Correlation Congruence for Knowledge Distillation", 1904.01802.

A benchmark that many copy multiplies differences of neighbouring rows under this name; this is the paper's formula.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.adapters import as_vector
from kdrun.losses.term import Term
from kdrun.pairing import Pair, both, pair_embeddings
from kdrun.types import Batch, Outputs


def correlations(points: Tensor, gamma: float, order: int) -> Tensor:
    """`(B, B)` from `(B, D)`: the Gaussian kernel `exp(-γ‖x - y‖²)` of unit vectors, by its Taylor series in `x·y`."""
    units = F.normalize(points, dim=1)
    cosines = units @ units.T
    series = [(2 * gamma) ** power / math.factorial(power) * cosines.pow(power) for power in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(series).sum(dim=0)


def cc_loss(student: Tensor, teacher: Tensor, gamma: float, order: int) -> Tensor:
    """`‖C_student - C_teacher‖² / B²` of the correlations of samples `(B, D)`; D may differ."""
    return (correlations(student, gamma, order) - correlations(teacher, gamma, order)).pow(2).mean()


class CC(Term):
    features = True
    relational = True
    smallest_batch = 2

    def __init__(self, gamma: float = 0.4, order: int = 2, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.gamma, self.order, self.given = gamma, order, pairs
        self.pair = Pair("", "")

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        self.pair = pair_embeddings(student_probe, teacher_probe, self.given)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        known, wanted = both(student, teacher, self.pair)
        return cc_loss(as_vector(known), as_vector(wanted), self.gamma, self.order)
