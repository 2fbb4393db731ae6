"""A random crop of the original size after zero padding, the standard augmentation of small images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.datasets.hashing import Draw


def apply(images: Tensor, draw: Draw, padding: int) -> Tensor:
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = draw.below("top", 2 * padding + 1), draw.below("left", 2 * padding + 1)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    sample = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
