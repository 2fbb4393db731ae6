"""Rotation about the centre, bilinear, zeros outside."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.datasets.hashing import Draw


def apply(images: Tensor, draw: Draw, degrees: float) -> Tensor:
    """Each image by its own angle, uniform in ±`degrees`."""
    height, width = images.shape[2:]
    angle = (2 * draw("angle") - 1) * math.radians(degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # the grid runs over [-1, 1] on both axes, so that a rotation of pixels needs the aspect ratio
    rows = [torch.stack([cos, -sin * height / width, zero], 1), torch.stack([sin * width / height, cos, zero], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    turned = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return turned.round().clamp(0, 255).to(images.dtype)
