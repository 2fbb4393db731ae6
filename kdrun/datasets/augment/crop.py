"""A random crop of the original size after zero padding, the standard augmentation of small images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.datasets.hashing import Draw


def apply(images: Tensor, draw: Draw, padding: int) -> Tensor:
    height, width = images.shape[2:]
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # every crop there is: no copies
    top, left = draw.below("top", 2 * padding + 1), draw.below("left", 2 * padding + 1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]
