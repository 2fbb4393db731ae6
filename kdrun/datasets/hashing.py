"""Random numbers as a pure function of (seed, view, sample): the same on every device, in any order, at any time."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

MASK = 0xFFFFFFFF


def hash32(index: Tensor, *keys: int) -> Tensor:
    """`(B,)` int64 in [0, 2^32), a hash of each sample number and the keys."""
    state = _mix(index & MASK)
    for key in keys:
        state = _mix((state + 0x9E3779B9 + (key & MASK)) & MASK)
    return state


def _mix(x: Tensor) -> Tensor:
    """The 32-bit finaliser of MurmurHash3 (Appleby 2011), a bijection with full avalanche."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & MASK
    return x ^ (x >> 16)


class Draw:
    """The random numbers of one view of some samples; each name is an independent stream."""

    def __init__(self, seed: int, view: int, index: Tensor, path: str = "") -> None:
        self.seed, self.view, self.index, self.path = seed, view, index, path

    def within(self, name: str) -> Draw:
        """The streams of one augmentation, apart from those of every other."""
        return Draw(self.seed, self.view, self.index, f"{self.path}/{name}")

    def __call__(self, name: str) -> Tensor:
        """`(B,)` float32, uniform in [0, 1)."""
        stream = zlib.crc32(f"{self.path}/{name}".encode())
        return (hash32(self.index, self.seed, self.view, stream) >> 8).to(torch.float32) / 2**24

    def below(self, name: str, limit: int) -> Tensor:
        """`(B,)` int64, uniform in [0, limit)."""
        stream = zlib.crc32(f"{self.path}/{name}".encode())
        return (hash32(self.index, self.seed, self.view, stream) * limit) >> 32
