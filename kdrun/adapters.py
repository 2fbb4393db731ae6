"""What makes the features of any two models comparable: folding, pooling, resizing, and learned 1x1 convolutions."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

PREFIX_TOKENS = 5  # class, distillation and register tokens, at most, in front of those of the image


def is_map(feature: Tensor) -> bool:
    """Does it have pixels: `(B, D, H, W)`, `(B, H, W, D)`, or tokens `(B, L, D)` of a square image?"""
    return feature.dim() == 4 or (feature.dim() == 3 and _prefix(feature.shape[1]) is not None)


def as_map(feature: Tensor) -> Tensor:
    """`(B, D, H, W)` of a map in either layout, of the tokens of a square image, or of a vector as one pixel.

    Square maps alone tell their layout: `(B, 4, 4, 192)` is one of 192 channels. Of tokens `(B, L, D)` those in front
    of a square number are left out; where there is no such number, tokens are averaged to one pixel.
    """
    if feature.dim() == 4:
        channels_last = feature.shape[1] == feature.shape[2] != feature.shape[3]
        return feature.permute(0, 3, 1, 2) if channels_last else feature
    if feature.dim() == 2:
        return feature[:, :, None, None]
    prefix = _prefix(feature.shape[1])
    if prefix is None:
        return feature.mean(dim=1)[:, :, None, None]
    side = math.isqrt(feature.shape[1] - prefix)
    return feature[:, prefix:].transpose(1, 2).unflatten(2, (side, side))


def as_vector(feature: Tensor) -> Tensor:
    """`(B, D)`: the mean over pixels or tokens."""
    return as_map(feature).mean(dim=(2, 3))


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps `(B, D, H, W)` with `size` pixels: averaged where there are more, interpolated where there are fewer."""
    here = (maps.shape[2], maps.shape[3])
    if here == size:
        return maps
    if here[0] % size[0] == 0 and here[1] % size[1] == 0:
        return F.avg_pool2d(maps, (here[0] // size[0], here[1] // size[1]))  # the same to the bit on CUDA too
    if here[0] >= size[0] and here[1] >= size[1]:
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def to_the_smaller(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps with the pixels of the one that has fewer."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    return resized(one, size), resized(other, size)


class Regressor(nn.Module):
    """The student's feature as a map of the teacher's channels and pixels, by 1x1 convolutions.

    `hidden` layers of the teacher's width with ReLU between them and the last; none: linear.
    """

    def __init__(self, student: Tensor, teacher: Tensor, hidden: int = 0) -> None:
        super().__init__()
        channels, wanted = as_map(student).shape[1], as_map(teacher).shape
        self.size = (wanted[2], wanted[3])
        layers: list[nn.Module] = []
        for _ in range(hidden):
            layers += [nn.Conv2d(channels, wanted[1], 1, bias=False), nn.ReLU()]
            channels = wanted[1]
        self.convolutions = nn.Sequential(*layers, nn.Conv2d(channels, wanted[1], 1))

    def forward(self, feature: Tensor) -> Tensor:
        return self.convolutions(resized(as_map(feature), self.size))


def _prefix(tokens: int) -> int | None:
    """How many tokens stand in front of a square number of them."""
    counts = range(min(PREFIX_TOKENS, tokens - 1) + 1)
    return next((count for count in counts if math.isqrt(tokens - count) ** 2 == tokens - count), None)
