"""Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", 1412.6550: a hint from inside, given all along.

The paper trains the lower half on the hint first; here hint and labels are one loss, as the field's benchmarks have
it, and the mean over elements stands for half the sum. The regressor is one 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.adapters import Regressor, as_map
from kdrun.losses.term import Term
from kdrun.pairing import Pair, both, pair_middle
from kdrun.types import Batch, Outputs


def fitnet_loss(guided: Tensor, hint: Tensor) -> Tensor:
    """Mean squared difference of the regressed student map and the teacher's, both `(B, D, H, W)`."""
    return F.mse_loss(guided, hint)


class FitNet(Term):
    features = True

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.given = pairs
        self.pairs: list[Pair] = []
        self.regressors = nn.ModuleList()

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        self.pairs = pair_middle(student_probe, teacher_probe, self.given)
        self.regressors.extend(Regressor(*both(student_probe, teacher_probe, pair)) for pair in self.pairs)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        losses = []
        for pair, regressor in zip(self.pairs, self.regressors, strict=True):
            guided, hint = both(student, teacher, pair)
            losses.append(fitnet_loss(regressor(guided), as_map(hint)))
        return torch.stack(losses).sum()
