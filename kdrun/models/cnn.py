"""Convolution, ReLU and pooling for each width, then one linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def input_size(size: int, widths: Sequence[int]) -> int:
    """Each pooling halves the image; one pixel must remain."""
    return max(size, 2 ** len(widths))


def build(classes: int, channels: int, size: int, widths: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in pairwise([channels, *widths]):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        size //= 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * size * size, classes))
