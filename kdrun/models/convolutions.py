"""Convolutions whose training costs less than as torch computes them; the sums are the same, in another order.

Networks made for large images have convolutions on maps smaller than their kernel when they are fed small ones. Most of
such a kernel meets padding alone, and what is multiplied with zeros need not be computed: on a map of one pixel a 3x3
kernel is its middle. A depthwise one is faster on a larger map: where the map is smaller than the kernel, oneDNN takes
15 times as long for its gradient as where they are equal. Depthwise ones have gradients of their own (`depthwise.py`).

Only while training: what is measured and shipped is the network as it is.
"""

from __future__ import annotations

from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.models.depthwise import depthwise_conv2d

Module = TypeVar("Module", bound=nn.Module)


class FasterConv2d(nn.Conv2d):
    """A `Conv2d` of which `_fits` holds: an odd kernel, padded so that stride 1 keeps the size of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)`, as `Conv2d` answers it."""
        height, width = x.shape[2:]
        size, side = self.kernel_size[0], max(height, width)
        if not self.training:
            return super().forward(x)
        if side >= size:
            return self._convolve(x, self.weight)
        reach = min(size, 2 * side - 1)  # from one end of the map to the other, both ways
        edge = (size - reach) // 2
        kernel = self.weight[:, :, edge : size - edge, edge : size - edge]
        if is_depthwise(self):
            x = F.pad(x, (0, max(0, reach - width), 0, max(0, reach - height)))
        y = self._convolve(x, kernel)
        seen = y[:, :, : -(-height // self.stride[0]), : -(-width // self.stride[1])]
        return seen if seen.shape == y.shape else seen.clone()  # a batch norm is slow with what has gaps in memory

    def _convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        padding = kernel.shape[-1] // 2
        if is_depthwise(self):
            return depthwise_conv2d(x, kernel, self.bias, (self.stride[0], self.stride[1]), padding)
        return F.conv2d(x, kernel, self.bias, self.stride, padding, 1, self.groups)


def with_faster_convolutions(net: Module) -> Module:
    """The same network with its convolutions computed in this way; weights and their names stay."""
    for module in net.modules():
        if type(module) is nn.Conv2d and _fits(module):
            module.__class__ = FasterConv2d
    return net


def is_depthwise(convolution: nn.Conv2d) -> bool:
    """Has it as many groups as input channels, and more than one?"""
    return convolution.groups == convolution.in_channels > 1


def _fits(convolution: nn.Conv2d) -> bool:
    size = convolution.kernel_size[0]
    square = convolution.kernel_size == (size, size) and convolution.padding == (size // 2, size // 2)
    return square and size % 2 == 1 < size and convolution.dilation == (1, 1) and convolution.padding_mode == "zeros"
