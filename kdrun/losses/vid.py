"""Ahn et al. 2019, "Variational Information Distillation for Knowledge Transfer", 1904.05835.

The teacher's feature is taken for a Gaussian around what the student predicts, with one variance per channel that is
learned along: where the prediction is hopeless the variance grows, and the student is let off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.adapters import Regressor, as_map
from kdrun.losses.term import Term
from kdrun.pairing import Pair, both, pair_stages
from kdrun.types import Batch, Outputs

EPSILON = 1e-5  # the least variance
VARIANCE = 5.0  # the first, as in the authors' experiments


def vid_loss(mean: Tensor, teacher: Tensor, raw: Tensor) -> Tensor:
    """`½ [(mean - teacher)² / σ² + log σ²]` with `σ² = softplus(raw) + ε`, mean over all elements.

    mean, teacher: `(B, D, H, W)`; raw: `(D,)`. Its constant, ½ log 2π, is left out.
    """
    variance = (F.softplus(raw) + EPSILON)[:, None, None]
    return ((mean - teacher).pow(2) / variance + variance.log()).mean() / 2


class VID(Term):
    features = True

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.given = pairs
        self.pairs: list[Pair] = []
        self.means = nn.ModuleList()
        self.raw = nn.ParameterList()

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        self.pairs = pair_stages(student_probe, teacher_probe, self.given)
        start = math.log(math.expm1(VARIANCE - EPSILON))  # softplus of this is the first variance
        for pair in self.pairs:
            known, wanted = both(student_probe, teacher_probe, pair)
            self.means.append(Regressor(known, wanted, hidden=2))
            self.raw.append(nn.Parameter(torch.full((as_map(wanted).shape[1],), start)))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        losses = []
        for pair, mean, raw in zip(self.pairs, self.means, self.raw, strict=True):
            known, wanted = both(student, teacher, pair)
            losses.append(vid_loss(mean(known), as_map(wanted), raw))
        return torch.stack(losses).sum()
