"""Random numbers as a pure function of (seed, view, sample): the same on every device, in any order, at any time."""

from __future__ import annotations

import copy
import zlib

import torch
from torch import Tensor

MASK = 0xFFFFFFFF


def hash32(index: Tensor, *keys: int) -> Tensor:
    """`(B,)` int64 in [0, 2^32), a hash of each sample number and the keys."""
    return _hashed(_mix(index & MASK), *keys)


def _hashed(state: Tensor, *keys: int) -> Tensor:
    """A hash with more keys."""
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

    def __init__(self, seed: int, view: int, index: Tensor) -> None:
        self.view_of_samples = hash32(index, seed, view)
        self.path = ""

    def within(self, name: str) -> Draw:
        """The streams of one augmentation, apart from those of every other."""
        inner = copy.copy(self)
        inner.path = f"{self.path}/{name}"
        return inner

    def __call__(self, name: str) -> Tensor:
        """`(B,)` float32, uniform in [0, 1)."""
        return (self._stream(name) >> 8).to(torch.float32) / 2**24

    def below(self, name: str, limit: int) -> Tensor:
        """`(B,)` int64, uniform in [0, limit)."""
        return (self._stream(name) * limit) >> 32

    def _stream(self, name: str) -> Tensor:
        return _hashed(self.view_of_samples, zlib.crc32(f"{self.path}/{name}".encode()))
