"""Heo et al. 2019, "A Comprehensive Overhaul of Feature Distillation", 1904.01866.

The student learns what the teacher lets through its ReLU. What the teacher holds back becomes a margin below zero, each
channel's mean negative value; a student that is below it as well is left alone: the partial distance.

The paper taps before the last ReLU of a stage, and reads the margin from the batch norm before it. Here taps are where
the stage ends. Behind a ReLU everything that is not positive counts as the margin, which comes from the last batch norm
inside the stage (0 where it has none); elsewhere the margin is the mean negative value of the batch.

Default: weight 1e-3 for the sum over elements, each stage half of the next deeper; tuned on CIFAR-100.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdrun.adapters import as_map, to_the_smaller
from kdrun.losses.term import Term
from kdrun.pairing import Pair, both, pair_stages
from kdrun.taps import INPUT, Tapped
from kdrun.types import Batch, Outputs

SMALLEST = 1e-6  # deviation of a channel that has been trained to a constant


def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """`Σ (s - max(t, m))²` of maps `(B, D, H, W)`, without elements where `t <= 0` and `s` is not above; mean over B.

    margin: m, `(D,)`, not positive.
    """
    target = torch.maximum(teacher, margin[:, None, None])
    counted = (student > target) | (target > 0)
    return ((student - target).square() * counted).sum() / len(student)


def margin_of_norm(norm: nn.BatchNorm2d) -> Tensor:
    """`(D,)`: the mean of the negative values of a normal distribution with the norm's mean and deviation.

    `μ - σ φ(μ/σ) / Φ(-μ/σ)`; `-3 σ` where fewer than one value in a thousand is negative, as in the authors' code.
    """
    deviation, mean = norm.weight.detach().abs().clamp(min=SMALLEST), norm.bias.detach()
    place = mean / deviation
    below = torch.special.ndtr(-place)
    density = (-place.square() / 2).exp() / math.sqrt(2 * math.pi)
    return torch.where(below > 1e-3, mean - deviation * density / below.clamp(min=1e-3), -3 * deviation)


def mean_negative(maps: Tensor) -> Tensor:
    """`(D,)`: of each channel of maps `(B, D, H, W)` the mean of its negative values, 0 where it has none."""
    negative = maps.clamp(max=0).transpose(0, 1).flatten(1)
    return negative.sum(dim=1) / (negative < 0).sum(dim=1).clamp(min=1)


class OFD(Term):
    features = True
    smallest_batch = 2  # the connectors have batch norm

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.given = pairs
        self.pairs: list[Pair] = []
        self.connectors = nn.ModuleList()
        self.rectified: list[bool] = []

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        self.pairs = pair_stages(student_probe, teacher_probe, self.given)
        assert isinstance(teacher, Tapped)
        for number, pair in enumerate(self.pairs):
            known, wanted = (as_map(one) for one in both(student_probe, teacher_probe, pair))
            convolution = nn.Conv2d(known.shape[1], wanted.shape[1], 1, bias=False)
            self.connectors.append(nn.Sequential(convolution, nn.BatchNorm2d(wanted.shape[1])))
            self.rectified.append(bool((wanted >= 0).all()))
            norm = last_norm(teacher.network, teacher.taps[pair.teacher], wanted.shape[1])
            margin = wanted.new_zeros(wanted.shape[1]) if norm is None else margin_of_norm(norm)
            self.register_buffer(f"margin{number}", margin)
        self.relational = not all(self.rectified)  # then a margin is a mean over the batch

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        losses = []
        for number, (pair, connector) in enumerate(zip(self.pairs, self.connectors, strict=True)):
            known, wanted = to_the_smaller(*(as_map(one) for one in both(student, teacher, pair)))
            margin = getattr(self, f"margin{number}") if self.rectified[number] else mean_negative(wanted)
            if self.rectified[number]:
                wanted = torch.where(wanted > 0, wanted, margin[:, None, None])
            losses.append(ofd_loss(connector(known), wanted, margin) / 2 ** (len(self.pairs) - 1 - number))
        return torch.stack(losses).sum()


def last_norm(network: nn.Module, place: str, channels: int) -> nn.BatchNorm2d | None:
    """The last batch norm of so many channels in front of a tap, and in its module; None where there is none."""
    path, before = place.removesuffix(INPUT), place.endswith(INPUT)
    found, passed = None, False
    for name, module in network.named_modules():
        within = name == path or name.startswith(f"{path}.")
        if (within and before) or (passed and not within):
            break
        passed = passed or within
        if isinstance(module, nn.BatchNorm2d) and module.num_features == channels and module.affine:
            found = module
    return found
