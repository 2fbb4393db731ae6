"""Convex combinations of images and labels (Zhang et al. 2017, 1710.09412)."""

from __future__ import annotations

from torch import Tensor

from kdrun.datasets.augment.beta import beta
from kdrun.datasets.hashing import Draw


def mix(images: Tensor, partners: Tensor, draw: Draw, alpha: float) -> tuple[Tensor, Tensor]:
    share = beta(draw("share"), alpha)
    weight = share[:, None, None, None]
    mixed = weight * images.float() + (1 - weight) * partners.float()
    return mixed.round().to(images.dtype), share
