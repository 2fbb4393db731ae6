"""Passalis, Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer", 1803.10837.

The conditional probabilities leave out the sample itself, as in the paper's equations; the authors' code has it in.
The mean is over B² entries as in that code, to which the weight of the field belongs: the sum of KLs is B² times it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.adapters import as_vector
from kdrun.losses.term import Term
from kdrun.pairing import Pair, both, pair_embeddings
from kdrun.types import Batch, Outputs

EPSILON = 1e-7  # probability below which two samples are not told apart


def neighbours(points: Tensor) -> Tensor:
    """`(B, B)` from `(B, D)`: how likely each other sample is a neighbour of this one, by the cosine; rows sum to 1."""
    units = F.normalize(points, dim=1)
    kernel = (units @ units.T + 1) / 2
    kernel = kernel * (1 - torch.eye(len(points), dtype=points.dtype, device=points.device))
    return kernel / kernel.sum(dim=1, keepdim=True).clamp(min=EPSILON)


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL of the teacher's neighbours from the student's, mean over the B² entries; `(B, D)`, D may differ."""
    p, q = neighbours(teacher), neighbours(student)
    return (p * ((p + EPSILON).log() - (q + EPSILON).log())).mean()


class PKT(Term):
    features = True
    relational = True
    smallest_batch = 3  # with two samples each has one neighbour, for certain

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.given = pairs
        self.pair = Pair("", "")

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        self.pair = pair_embeddings(student_probe, teacher_probe, self.given)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return pkt_loss(*(as_vector(one) for one in both(student, teacher, self.pair)))
