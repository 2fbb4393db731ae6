"""A network together with what it needs done to its images: colours, size, normalisation.

Preparation belongs to the model's side, so that a teacher and a student may differ in it and data stays bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL converts colour to grey


class Preprocess(nn.Module):
    """Images of any size, grey or colour, uint8 or float in [0, 1], to what a network was trained on.

    `channels` and `size` are those of the data the network was trained on, `mean` and `std` (one per channel) its
    normalisation. `network_channels` repeats a grey image for networks that insist on colour.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, channels: int, size: Sequence[int], mean: Sequence[float], std: Sequence[float], network_channels: int
    ) -> None:
        super().__init__()
        self.channels, self.size, self.network_channels = channels, tuple(size), network_channels
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """`(B, c, h, w)` to float32 `(B, network_channels, H, W)`."""
        x = images.float() / 255 if images.dtype == torch.uint8 else images
        x = with_channels(x, self.channels)
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, size=self.size, mode="bilinear", antialias=True)
        x = (x - self.mean) / self.std
        return with_channels(x, self.network_channels)


def with_channels(x: Tensor, channels: int) -> Tensor:
    """Grey to colour by repeating, colour to grey by luma."""
    if x.shape[1] == channels:
        return x
    if x.shape[1] == 1:
        return x.expand(-1, channels, -1, -1)
    if x.shape[1] == 3 and channels == 1:
        weight = torch.tensor(LUMA, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
        return (x * weight).sum(dim=1, keepdim=True)
    raise ValueError(f"images of {x.shape[1]} channels cannot become images of {channels}")


class Prepared(nn.Module):
    """`net(preprocess(images))`. Only `net` has weights."""

    def __init__(self, net: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.preprocess(images))
