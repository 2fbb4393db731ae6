"""Mirrored left to right with a given probability."""

from __future__ import annotations

import torch
from torch import Tensor

from kdrun.datasets.hashing import Draw


def apply(images: Tensor, draw: Draw, probability: float) -> Tensor:
    mirrored = draw("mirrored") < probability
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)
