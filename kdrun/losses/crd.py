"""Tian, Krishnan, Isola 2020, "Contrastive Representation Distillation", 1910.10699.

Teacher and student, each through a linear head to the unit sphere, are to tell apart whether two embeddings are of one
sample (positive) or of samples of different classes (negatives): noise-contrastive estimation, with either as anchor.
Negatives come from a memory of the embeddings of all training samples, a running mean; it is part of the learner.

Default: 16384 negatives (at most as many as there are samples of other classes), temperature 0.07, momentum 0.5, width
128, weight 0.8; tuned on CIFAR-100. Scores are divided by a constant that the first batch sets, as in the authors'
code, to which the weight belongs. That code takes the positive from the memory too; here it is the present embedding.
Negatives are drawn with replacement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.adapters import as_vector
from kdrun.errors import UsageError
from kdrun.losses.term import Term, class_numbers
from kdrun.pairing import Pair, both, pair_embeddings
from kdrun.types import Batch, Outputs


def similarities(anchor: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """`(B, 1 + K)`: of unit vectors `(B, W)`, `(B, W)`, `(B, K, W)` their products with the anchor, over τ."""
    others = torch.cat([positive[:, None], negatives], dim=1)
    return (others @ anchor[:, :, None]).squeeze(2) / temperature


def crd_loss(scores: Tensor, log_scale: Tensor, noise: float) -> Tensor:
    """`-log p₀/(p₀ + c) - Σ_k log c/(p_k + c)`, `p = exp(score) / scale`, mean over the batch.

    scores: `(B, 1 + K)`, the positive first; noise: c = K / number of samples.
    """
    odds = scores - log_scale - math.log(noise)
    return -(F.logsigmoid(odds[:, 0]) + F.logsigmoid(-odds[:, 1:]).sum(dim=1)).mean()


class CRD(Term):
    features = True
    rows: Tensor  # by number of a sample, its place in the memory
    order: Tensor  # places in the memory by class, `start` where each class begins and how many it has
    start: Tensor
    count: Tensor
    memory: Tensor
    log_scale: Tensor

    def __init__(
        self,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        width: int = 128,
        pairs: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.negatives, self.temperature, self.momentum = negatives, temperature, momentum
        self.width, self.given = width, pairs
        self.pair = Pair("", "")
        self.heads = nn.ModuleList()
        self.samples = self.drawn = 0

    def remember(self, index: Tensor, targets: Tensor) -> None:
        self.samples, classes = len(index), targets[index]
        rows = index.new_full((int(index.max()) + 1,), -1)
        rows[index] = torch.arange(self.samples, device=index.device)
        counts = classes.bincount()
        known = {
            "rows": rows,
            "order": classes.argsort(stable=True),
            "start": counts.cumsum(0) - counts,
            "count": counts,
        }
        for name, value in known.items():
            self.register_buffer(name, value, persistent=False)  # it follows from the data
        self.drawn = min(self.negatives, self.samples - int(counts.max()))

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        if self.samples == 0:
            raise TypeError("crd keeps something of every training sample: give the learner the training split")
        if self.drawn < 1:
            raise UsageError("this loss contrasts classes, and the training data has one; kd and fitnet need no others")
        self.pair = pair_embeddings(student_probe, teacher_probe, self.given)
        features = [as_vector(one) for one in both(student_probe, teacher_probe, self.pair)]
        self.heads.extend(nn.Linear(one.shape[1], self.width) for one in features)
        self.register_buffer("memory", F.normalize(torch.randn(2, self.samples, self.width), dim=2))
        self.register_buffer("log_scale", torch.full((2,), -torch.inf))  # until the first batch sets it

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        features = [as_vector(one) for one in both(student, teacher, self.pair)]
        points = [F.normalize(head(one), dim=1) for head, one in zip(self.heads, features, strict=True)]
        drawn = self._draw(class_numbers(batch))
        losses = [self._contrast(points[side], points[1 - side], drawn, side) for side in (0, 1)]
        if self.training:
            self._keep(points, batch.index)
        return torch.stack(losses).sum()

    def _draw(self, classes: Tensor) -> Tensor:
        """`(B, K)`: places in the memory of samples of other classes than `(B,)`, at random."""
        count, start = self.count[classes][:, None], self.start[classes][:, None]
        chosen = torch.rand(len(classes), self.drawn, device=classes.device) * (self.samples - count)
        return self.order[(start + count + chosen.long()) % self.samples]

    def _contrast(self, anchor: Tensor, positive: Tensor, drawn: Tensor, side: int) -> Tensor:
        """With the student (side 0) or the teacher (1) as the anchor; the negatives are of the other."""
        scores = similarities(anchor, positive, self.memory[1 - side][drawn], self.temperature)
        present = scores.detach().flatten().logsumexp(0) - math.log(scores.numel()) + math.log(self.samples)
        scale = torch.where(self.log_scale[side].isfinite(), self.log_scale[side], present)
        if self.training:
            self.log_scale[side] = scale
        return crd_loss(scores, scale, self.drawn / self.samples)

    @torch.no_grad()
    def _keep(self, points: list[Tensor], index: Tensor) -> None:
        """A running mean of each sample's embeddings, on the unit sphere."""
        rows = self.rows[index]
        for side, point in enumerate(points):
            mixed = self.momentum * self.memory[side, rows] + (1 - self.momentum) * point
            self.memory[side, rows] = F.normalize(mixed, dim=1)
