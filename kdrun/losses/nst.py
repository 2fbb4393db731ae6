"""Huang, Wang 2017, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 1707.01219.

Maximum mean discrepancy between the channels of both, each taken as a point: the polynomial kernel of degree 2, on the
last maps, as in the paper. Benchmarks that add up all stages keep its weight, and so weigh it more.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.adapters import as_map, to_the_smaller
from kdrun.losses.term import Term
from kdrun.pairing import Pair, both, pair_stages
from kdrun.types import Batch, Outputs


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared MMD of the channels of two maps `(B, D, H, W)`, each scaled to norm 1; mean over the batch.

    Kernel `(x·y)²`. At the pixels of the smaller map; numbers of channels may differ.
    """
    s, t = (F.normalize(one.flatten(2), dim=2) for one in to_the_smaller(student, teacher))
    kernels = [(one @ other.transpose(1, 2)).pow(2).mean() for one, other in ((s, s), (t, t), (s, t))]
    return kernels[0] + kernels[1] - 2 * kernels[2]


class NST(Term):
    features = True

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.given = pairs
        self.pairs: list[Pair] = []

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        pairs = pair_stages(student_probe, teacher_probe, self.given, pixels=2)  # one pixel of norm 1 tells nothing
        self.pairs = pairs if self.given is not None else pairs[-1:]

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        maps = [[as_map(one) for one in both(student, teacher, pair)] for pair in self.pairs]
        return sum((nst_loss(s, t) for s, t in maps), student.logits.new_zeros(()))
