"""Yim, Joo, Bae, Kim 2017, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
Learning", CVPR 2017: the flow of the solution procedure.

First phase: how one stage follows from the one before, as the products of their channels averaged over pixels, is to be
as in the teacher. Second phase: the other terms of the loss alone, from there.

The paper's pairs have equal numbers of channels; where these differ, a 1x1 convolution makes them equal. Maps of two
resolutions are averaged to the smaller. Default: the first phase is 30 of 270 epochs, weight 50 for the mean square, as
in the CIFAR-100 benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.adapters import Regressor, as_map, to_the_smaller
from kdrun.errors import UsageError
from kdrun.losses.term import Term
from kdrun.pairing import Pair, both, pair_stages, shapes
from kdrun.types import Batch, Outputs


def flow(bottom: Tensor, top: Tensor) -> Tensor:
    """`(B, D, E)` of maps `(B, D, H, W)` and `(B, E, h, w)`: products of all channels, mean over pixels."""
    one, other = (maps.flatten(2) for maps in to_the_smaller(bottom, top))
    return one @ other.transpose(1, 2) / one.shape[2]


def fsp_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of the flows between neighbouring stages, summed over these; equal channels."""
    flows = [[flow(*two) for two in pairwise(maps)] for maps in (student, teacher)]
    return torch.stack([F.mse_loss(s, t) for s, t in zip(*flows, strict=True)]).sum()


class FSP(Term):
    features = True
    stays = False

    def __init__(self, first: float = 30 / 270, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.first, self.given = first, pairs
        self.pairs: list[Pair] = []
        self.adapters = nn.ModuleList()

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        self.pairs = pair_stages(student_probe, teacher_probe, self.given)
        if len(self.pairs) < 2:
            assert teacher_probe is not None
            raise UsageError(
                f"this loss needs two stages in both, to see how one follows from the other; the student has "
                f"{shapes(student_probe)}, the teacher {shapes(teacher_probe)}; "
                "losses that work with one are fitnet, vid, sp"
            )
        for pair in self.pairs:
            known, wanted = (as_map(one) for one in both(student_probe, teacher_probe, pair))
            same = known.shape[1] == wanted.shape[1]
            self.adapters.append(nn.Identity() if same else Regressor(known, wanted))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        features = [both(student, teacher, pair) for pair in self.pairs]
        own = [adapter(as_map(one)) for adapter, (one, _) in zip(self.adapters, features, strict=True)]
        return fsp_loss(own, [as_map(one) for _, one in features])
