"""The k highest of many logits, and one number for all the others: what is kept of a teacher with many classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopK:
    """Logits `(N, classes)` in short. `values` `(N, k + 1)`: the k highest, then what each other class has; `index`
    `(N, k)`: which classes the k are. Rows are taken as of a tensor of logits."""

    values: Tensor
    index: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The logits `(B, classes)` of some rows, in the type of `values`."""
        return TopK(self.values[rows], self.index[rows], self.classes).logits()

    def to(self, device: torch.device) -> TopK:
        return TopK(self.values.to(device), self.index.to(device), self.classes)

    def logits(self) -> Tensor:
        """Those of all rows."""
        others = self.values[:, -1:].expand(-1, self.classes)
        return others.scatter(1, self.index.long(), self.values[:, :-1])


def joined(parts: Sequence[TopK]) -> TopK:
    """One behind another."""
    values, index = (torch.cat([getattr(part, name).cpu() for part in parts]) for name in ("values", "index"))
    return TopK(values, index, parts[0].classes)


def shortened(logits: Tensor, k: int) -> TopK:
    """The k highest logits of each row of `(N, C)`, k < C.

    The other classes share the probability that is left in equal parts, so that every probability of the k is kept
    exactly at temperature 1 (marginal smoothing, Shen and Xing 2021, 2112.01528); at others, nearly.
    """
    values, index = logits.topk(k, dim=1)
    rest = logits.scatter(1, index, -torch.inf).logsumexp(dim=1, keepdim=True)
    return TopK(torch.cat([values, rest - math.log(logits.shape[1] - k)], dim=1), index, logits.shape[1])
