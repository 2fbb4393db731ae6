"""Multi-layer perceptron on the flattened image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def build(classes: int, channels: int, size: int, widths: Sequence[int], dropout: float) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise([channels * size * size, *widths]):
        layers += [nn.Linear(before, after), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    last = widths[-1] if widths else channels * size * size
    return nn.Sequential(*layers, nn.Linear(last, classes))
