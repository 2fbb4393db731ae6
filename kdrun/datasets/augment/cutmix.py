"""A box of the partner pasted in, labels mixed by area (Yun et al. 2019, 1905.04899)."""

from __future__ import annotations

import torch
from torch import Tensor

from kdrun.datasets.augment.beta import beta
from kdrun.datasets.augment.boxes import box
from kdrun.datasets.hashing import Draw


def mix(images: Tensor, partners: Tensor, draw: Draw, alpha: float) -> tuple[Tensor, Tensor]:
    """The share is that of the pixels kept, after the box was cut off at the border."""
    height, width = images.shape[2:]
    side = (1 - beta(draw("share"), alpha)).sqrt()
    sides = torch.stack([side * height, side * width], dim=1).round().long()
    pasted = box(sides, (draw.below("row", height), draw.below("column", width)), (height, width))
    return torch.where(pasted, partners, images), 1 - pasted.float().mean(dim=(1, 2, 3))
