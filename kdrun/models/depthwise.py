"""Depthwise convolutions on a CPU, whose gradients need not cost many times what their values do.

oneDNN has no fast code for two of these gradients. That of a kernel larger than 3x3 takes ten times as long as that of
a 3x3 one; here it is put together from those of 3x3 parts. That of a strided convolution's input takes 25 to 100 times
as long in half precision as in float32; here it is computed in float32. The sums are the same, in another order.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PART = 3  # side of the largest kernel whose gradient oneDNN has fast code for
HALF = (torch.bfloat16, torch.float16)
INPUT, KERNEL = [True, False, False], [False, True, False]  # which gradient is asked for
Pair = tuple[int, int]


def depthwise_conv2d(x: Tensor, kernel: Tensor, bias: Tensor | None, stride: Pair, padding: int) -> Tensor:
    """What `torch.nn.functional.conv2d` gives for images `(B, C, H, W)` and a square kernel `(M, 1, K, K)`, M being a
    multiple of C: `(B, M, H', W')`, in the type that autocast asks for."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    slow = kernel.shape[-1] > PART or (max(stride) > 1 and dtype in HALF)
    if x.device.type != "cpu" or not slow:
        return F.conv2d(x, kernel, bias, stride, padding, 1, x.shape[1])
    given = x.to(dtype), kernel.to(dtype), None if bias is None else bias.to(dtype)
    answer: Tensor = _Depthwise.apply(*given, stride, padding)
    return answer


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor | None, stride: Pair, padding: int) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, kernel, bias, stride, padding, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, kernel) = gradients, ctx.saved_tensors
        of_input, of_kernel, of_bias = ctx.needs_input_grad[:3]
        return (
            input_gradient(gradient, x, kernel, ctx.stride, ctx.padding) if of_input else None,
            kernel_gradient(gradient, x, kernel, ctx.stride, ctx.padding) if of_kernel else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
            None,
        )


def input_gradient(gradient: Tensor, x: Tensor, kernel: Tensor, stride: Pair, padding: int) -> Tensor:
    if max(stride) > 1 and x.dtype in HALF:
        shape = torch.empty_like(x, dtype=torch.float32)  # the values of x do not matter to it
        return _backward(gradient.float(), shape, kernel.float(), stride, padding, INPUT)[0].to(x.dtype)
    return _backward(gradient, x, kernel, stride, padding, INPUT)[0]


def kernel_gradient(gradient: Tensor, x: Tensor, kernel: Tensor, stride: Pair, padding: int) -> Tensor:
    size = kernel.shape[-1]
    if size <= PART:
        return _backward(gradient, x, kernel, stride, padding, KERNEL)[1]
    padded = F.pad(x, [padding] * 4)
    height, width = ((side - 1) * step + PART for side, step in zip(gradient.shape[2:], stride, strict=True))
    answer, part = torch.empty_like(kernel), kernel[:, :, :PART, :PART]
    starts = sorted({min(start, size - PART) for start in range(0, size, PART)})  # the last parts overlap
    for top, left in product(starts, starts):
        seen = padded[:, :, top : top + height, left : left + width]
        found = _backward(gradient, seen, part, stride, 0, KERNEL)[1]
        answer[:, :, top : top + PART, left : left + PART] = found
    return answer


def _backward(
    gradient: Tensor, x: Tensor, kernel: Tensor, stride: Pair, padding: int, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten.convolution_backward(
        gradient, x, kernel, None, stride, [padding] * 2, [1, 1], False, [0, 0], x.shape[1], wanted
    )
