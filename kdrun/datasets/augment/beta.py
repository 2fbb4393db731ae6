"""Beta(alpha, alpha) numbers from uniform ones."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

POINTS = 4097


def beta(uniform: Tensor, alpha: float) -> Tensor:
    """The quantile function, interpolated between tabulated points: `(B,)` uniform in [0, 1) to `(B,)` in [0, 1]."""
    table = _quantiles(alpha).to(uniform.device)
    place = uniform * (POINTS - 1)
    low = place.long().clamp(max=POINTS - 2)
    return torch.lerp(table[low], table[low + 1], place - low)


@cache
def _quantiles(alpha: float) -> Tensor:
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(alpha, alpha, torch.linspace(0, 1, POINTS).double().numpy())).float()
