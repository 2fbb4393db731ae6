"""Zagoruyko, Komodakis 2017, "Paying More Attention to Attention", 1612.03928: attention transfer, activation-based.

The paper's equation 2 takes the norm of the difference of normalised attention maps (`norm`); the authors' code, and
with it the weight that the field uses, the mean of its squares (`mean_square`). Both are here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.adapters import as_map, resized
from kdrun.losses.term import Term
from kdrun.pairing import Pair, both, pair_stages
from kdrun.types import Batch, Outputs


def attention(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Where a map `(B, D, H, W)` is active: mean square over channels at `size` pixels, `(B, pixels)` of norm 1."""
    return F.normalize(resized(maps.pow(2).mean(dim=1, keepdim=True), size).flatten(1), dim=1)


def at_loss(student: Tensor, teacher: Tensor, form: str) -> Tensor:
    """Difference of the attention of two maps `(B, D, H, W)`, at the pixels of the smaller; channels may differ.

    `norm`: half its length, mean over the batch. `mean_square`: its mean square over pixels and batch.
    """
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    difference = attention(student, size) - attention(teacher, size)
    if form == "norm":
        return torch.linalg.vector_norm(difference, dim=1).mean() / 2
    return difference.pow(2).mean()


class AT(Term):
    features = True

    def __init__(self, form: str = "mean_square", pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.form, self.given = form, pairs
        self.pairs: list[Pair] = []

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        self.pairs = pair_stages(student_probe, teacher_probe, self.given, pixels=2)  # one pixel is always the same

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        maps = [[as_map(one) for one in both(student, teacher, pair)] for pair in self.pairs]
        return torch.stack([at_loss(s, t, self.form) for s, t in maps]).sum()
