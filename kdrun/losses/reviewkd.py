"""Chen et al. 2021, "Distilling Knowledge via Knowledge Review", 2104.09044.

Each stage of the student, fused with all deeper ones, learns from one stage of the teacher. The pooled embedding, which
the authors' code appends as one stage more for CIFAR, is left out: this is for maps.

Default: weight 5, the authors' for resnet32x4 → resnet8x4 and wrn_40_2 → wrn_16_2 on CIFAR-100 (0.6 for resnet56 →
resnet20, 1 for resnet110 → resnet32, 8 for ShuffleNetV2), rising over 20 of 240 epochs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.adapters import as_map, resized
from kdrun.losses.term import Term
from kdrun.pairing import Pair, both, pair_stages
from kdrun.types import Batch, Outputs

SIDES = (4, 2, 1)  # pixels to which maps are pooled, beside their own
WIDEST = 512  # channels of the fusion


def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss of two maps `(B, D, H, W)` of one shape.

    Mean squared difference, and the same of the maps pooled to 4x4, 2x2 and 1x1 where they are larger, each weighing
    half of the one before; divided by the sum of these weights.
    """
    losses, weights = [F.mse_loss(student, teacher)], [1.0]
    for side in SIDES:
        if side < student.shape[2]:
            losses.append(F.mse_loss(resized(student, (side, side)), resized(teacher, (side, side))))
            weights.append(weights[-1] / 2)
    return sum((weight * loss for weight, loss in zip(weights, losses, strict=True)), losses[0] * 0) / sum(weights)


class Fusion(nn.Module):
    """Attention-based fusion: a stage's map, and what came from the deeper ones, weighed pixel by pixel."""

    def __init__(self, student: Tensor, teacher: Tensor, channels: int, deepest: bool) -> None:
        super().__init__()
        known, wanted = as_map(student), as_map(teacher)
        self.size = (wanted.shape[2], wanted.shape[3])
        self.enter = nn.Sequential(nn.Conv2d(known.shape[1], channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.weigh = None if deepest else nn.Sequential(nn.Conv2d(2 * channels, 2, 1), nn.Sigmoid())
        leave = nn.Conv2d(channels, wanted.shape[1], 3, padding=1, bias=False)
        self.leave = nn.Sequential(leave, nn.BatchNorm2d(wanted.shape[1]))

    def forward(self, feature: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the teacher's stage is compared with, and what the next shallower stage is given."""
        fused = self.enter(as_map(feature))
        if self.weigh is not None and deeper is not None:
            deeper = F.interpolate(deeper, size=(fused.shape[2], fused.shape[3]), mode="nearest")
            own, other = self.weigh(torch.cat([fused, deeper], dim=1)).split(1, dim=1)
            fused = fused * own + deeper * other
        return self.leave(resized(fused, self.size)), fused


class ReviewKD(Term):
    features = True
    smallest_batch = 2  # the adapters have batch norm

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.given = pairs
        self.pairs: list[Pair] = []
        self.fusions = nn.ModuleList()

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        self.pairs = pair_stages(student_probe, teacher_probe, self.given, pixels=1)[::-1]  # from deep to shallow
        features = [both(student_probe, teacher_probe, pair) for pair in self.pairs]
        channels = min(WIDEST, as_map(features[0][0]).shape[1])
        self.fusions.extend(Fusion(s, t, channels, deepest=not n) for n, (s, t) in enumerate(features))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        losses, deeper = [], None
        for pair, fusion in zip(self.pairs, self.fusions, strict=True):
            known, wanted = both(student, teacher, pair)
            compared, deeper = fusion(known, deeper)
            losses.append(context_loss(compared, as_map(wanted)))
        return torch.stack(losses).sum()
