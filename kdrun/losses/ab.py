"""Heo, Lee, Yun, Choi 2019, "Knowledge Transfer via Distillation of Activation Boundaries", 1811.03233.

First phase: where the teacher's neurons fire, the student's are to fire, by a margin; how strongly does not matter.
Second phase: the other terms of the loss alone, from there.

Firing is being above zero at the tap: behind a ReLU exactly that, in networks whose stages end before one the sign of
what goes into it. Default: the first phase is 30 of 270 epochs, weight 1 for 3/1000 of the sum over elements, each
stage half of the next deeper, as in the CIFAR-100 benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdrun.adapters import Regressor, as_map
from kdrun.losses.term import Term
from kdrun.pairing import Pair, both, pair_stages
from kdrun.types import Batch, Outputs

SCALE = 3 / 1000


def ab_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """`Σ max(0, m - s)²` where the teacher fires and `Σ max(0, m + s)²` where not; `(B, D, H, W)`, mean over B."""
    wanted = torch.where(teacher > 0, student, -student)
    return (margin - wanted).clamp(min=0).square().sum() / len(student)


class AB(Term):
    features = True
    stays = False
    smallest_batch = 2  # the connectors have batch norm

    def __init__(self, first: float = 30 / 270, margin: float = 1.0, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.first, self.margin, self.given = first, margin, pairs
        self.pairs: list[Pair] = []
        self.connectors = nn.ModuleList()

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        self.pairs = pair_stages(student_probe, teacher_probe, self.given)
        for pair in self.pairs:
            known, wanted = both(student_probe, teacher_probe, pair)
            norm = nn.BatchNorm2d(as_map(wanted).shape[1])
            self.connectors.append(nn.Sequential(Regressor(known, wanted), norm))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        losses = []
        for depth, (pair, connector) in enumerate(zip(self.pairs, self.connectors, strict=True), 1 - len(self.pairs)):
            known, wanted = both(student, teacher, pair)
            losses.append(2**depth * ab_loss(connector(known), as_map(wanted), self.margin))
        return SCALE * torch.stack(losses).sum()
