"""Kim, Park, Kwak 2018, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 1802.04977.

First phase: a paraphraser learns to say the teacher's last map again through fewer channels, the factor; nothing else
is trained. Second phase: a translator makes a factor of the student's map, which is to be that of the teacher.

Default: factors of half the teacher's channels; the first phase is 30 of 270 epochs; weight 200, that of the CIFAR-100
benchmark, which compares the mean squares of factors over channels. Here factors are compared whole, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.adapters import as_map, to_the_smaller
from kdrun.losses.term import Term
from kdrun.pairing import Pair, both, pair_last
from kdrun.types import Batch, Outputs

SLOPE = 0.1  # of the leaky ReLUs
EPSILON = 1e-6  # norm below which a factor is not scaled up


def ft_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of factors `(B, D, H, W)`, each sample's scaled to norm 1."""
    s, t = (F.normalize(one.flatten(1), dim=1, eps=EPSILON) for one in (student, teacher))
    return (s - t).abs().mean()


class FT(Term):
    features = True
    smallest_batch = 2  # the translator has batch norm

    def __init__(self, first: float = 30 / 270, rate: float = 0.5, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.first, self.rate, self.given = first, rate, pairs
        self.pair, self.done = Pair("", ""), 0.0
        self.encoder: nn.Module = nn.Identity()
        self.decoder: nn.Module = nn.Identity()
        self.translator: nn.Module = nn.Identity()

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        self.pair = pair_last(student_probe, teacher_probe, self.given)
        known, wanted = (as_map(one).shape[1] for one in both(student_probe, teacher_probe, self.pair))
        factor = max(1, int(wanted * self.rate))
        self.encoder = _stack([wanted, wanted, factor, factor], norm=False)
        self.decoder = _stack([factor, factor, wanted, wanted], norm=False)
        self.translator = _stack([known, known, factor, factor], norm=True)

    def progress(self, done: float) -> None:
        super().progress(done)
        self.done = done

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        known, wanted = (as_map(one) for one in both(student, teacher, self.pair))
        if self.done < self.first:
            return F.mse_loss(self.decoder(self.encoder(wanted)), wanted)
        with torch.no_grad():  # the paraphraser has learned what it is to say
            factor = self.encoder(wanted)
        return ft_loss(*to_the_smaller(self.translator(known), factor))


def _stack(channels: list[int], norm: bool) -> nn.Sequential:
    """Three 3x3 convolutions, each with a leaky ReLU, between so many channels."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), *([nn.BatchNorm2d(after)] if norm else [])]
        layers.append(nn.LeakyReLU(SLOPE))
    return nn.Sequential(*layers)
