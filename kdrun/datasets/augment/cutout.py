"""A square hole of zeros (DeVries, Taylor 2017, 1708.04552)."""

from __future__ import annotations

import torch
from torch import Tensor

from kdrun.datasets.augment.boxes import box
from kdrun.datasets.hashing import Draw


def apply(images: Tensor, draw: Draw, size: float) -> Tensor:
    """`size` is the hole's side as a share of the shorter side; its centre lies anywhere in the image."""
    height, width = images.shape[2:]
    side = max(1, round(size * min(height, width)))
    sides = torch.full((len(images), 2), side, device=images.device)
    hole = box(sides, (draw.below("row", height), draw.below("column", width)), (height, width))
    return images.masked_fill(hole, 0)
