"""Boxes per sample, as masks."""

from __future__ import annotations

import torch
from torch import Tensor


def box(size: Tensor, centre: tuple[Tensor, Tensor], shape: tuple[int, int]) -> Tensor:
    """`(B, 1, H, W)` bool: a box of `size` `(B, 2)` pixels (height, width) around `centre`, cut off at the border."""
    spans = []
    for axis, length in enumerate(shape):
        first = centre[axis] - size[:, axis] // 2
        place = torch.arange(length, device=size.device)
        spans.append((place >= first[:, None]) & (place < (first + size[:, axis])[:, None]))
    return (spans[0][:, :, None] & spans[1][:, None, :]).unsqueeze(1)
