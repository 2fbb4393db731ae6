"""Tian, Krishnan, Isola 2020, "Contrastive Representation Distillation", 1910.10699.

Teacher and student, each through a linear head to the unit sphere, are to tell apart whether two embeddings are of one
sample (positive) or of samples of different classes (negatives): noise-contrastive estimation, with either as anchor.
What an anchor is compared with comes from a memory of the embeddings of all training samples, a running mean; it is
part of the learner. The positive too: a fresh one among old negatives would be told by its age. In evaluation there is
no memory: the present batch takes its place.

Default: 16384 negatives (at most as many as there are samples of other classes), temperature 0.07, momentum 0.5, width
128, weight 0.8; tuned on CIFAR-100. Scores are divided by an estimate of their sum over all samples, as in the authors'
code, to which the weight belongs. There the first batch sets it for good, while the memory is still random: with 300
samples instead of 50,000 the loss then blows up. Here it follows the batches, with the momentum of the memory.
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

EPSILON = 1e-6  # norm below which an embedding is not scaled up


def similarities(anchors: Tensor, kept: Tensor, chosen: Tensor, temperature: float) -> Tensor:
    """`(B, 1 + K)`: products of unit vectors `(B, W)` with those of `kept` `(n, W)` at places `(B, 1 + K)`, over τ.

    One product with all of them takes less time and memory than a copy of the chosen ones for each anchor.
    """
    return (anchors @ kept.T).gather(1, chosen) / temperature


def crd_loss(scores: Tensor, log_scale: Tensor, noise: float) -> Tensor:
    """`-log p₀/(p₀ + c) - Σ_k log c/(p_k + c)`, `p = exp(score) / scale`, mean over the batch.

    scores: `(B, 1 + K)`, the positive first; noise: c = K / number of samples.
    """
    odds = scores - log_scale - math.log(noise)
    return -(F.logsigmoid(odds[:, 0]) + F.logsigmoid(-odds[:, 1:]).sum(dim=1)).mean()


def others(known: Tensor, classes: Tensor, most: int) -> Tensor:
    """`(B, K)`: at random, places in `known` `(n,)` that hold another class than each of `classes` `(B,)`.

    K is `most`, or what the largest class leaves where that is less.
    """
    counts = known.bincount(minlength=int(classes.max()) + 1)
    count, start = counts[classes][:, None], (counts.cumsum(0) - counts)[classes][:, None]
    number = min(most, len(known) - int(counts.max()))
    chosen = torch.rand(len(classes), number, device=classes.device) * (len(known) - count)
    return known.argsort(stable=True)[(start + count + chosen.long()) % len(known)]


class CRD(Term):
    features = True
    relational = True  # its memory and its scale are of the whole batch
    smallest_batch = 2
    rows: Tensor  # by number of a sample, its place in the memory
    classes: Tensor  # by place
    memory: Tensor  # `(2, places, width)`: of the student, of the teacher
    log_scale: Tensor  # `(2,)`: of the student as the anchor, of the teacher

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
        self.pair, self.samples = Pair("", ""), 0
        self.heads = nn.ModuleList()

    def remember(self, index: Tensor, targets: Tensor) -> None:
        self.samples = len(index)
        rows = index.new_full((int(index.max()) + 1,), -1)
        rows[index] = torch.arange(self.samples, device=index.device)
        self.register_buffer("rows", rows, persistent=False)  # both follow from the data
        self.register_buffer("classes", targets[index], persistent=False)

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        if self.samples == 0:
            raise TypeError("crd keeps something of every training sample: give the learner the training split")
        if (self.classes == self.classes[0]).all():
            raise UsageError("this loss contrasts classes, and the training data has one; kd and fitnet need no others")
        self.pair = pair_embeddings(student_probe, teacher_probe, self.given)
        features = [as_vector(one) for one in both(student_probe, teacher_probe, self.pair)]
        self.heads.extend(nn.Linear(one.shape[1], self.width) for one in features)
        self.register_buffer("memory", F.normalize(torch.randn(2, self.samples, self.width), dim=2))
        self.register_buffer("log_scale", torch.full((2,), -torch.inf))  # until the first batch sets it

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        features = [as_vector(one) for one in both(student, teacher, self.pair)]
        points = [F.normalize(head(one), dim=1, eps=EPSILON) for head, one in zip(self.heads, features, strict=True)]
        classes = class_numbers(batch)
        if not self.training:
            places = torch.arange(len(batch), device=classes.device)
            return self._contrast(points, torch.stack(points), places, others(classes, classes, self.negatives))
        places = self.rows[batch.index]
        loss = self._contrast(points, self.memory, places, others(self.classes, classes, self.negatives))
        self._keep(points, places)
        return loss

    def _contrast(self, points: list[Tensor], kept: Tensor, places: Tensor, drawn: Tensor) -> Tensor:
        """With the student as the anchor, and with the teacher; either is compared with what is kept of the other."""
        if drawn.shape[1] == 0:  # a batch of one class, in evaluation
            return torch.stack(points).sum() * 0
        chosen = torch.cat([places[:, None], drawn], dim=1)
        losses = []
        for side, anchors in enumerate(points):
            scores = similarities(anchors, kept[1 - side].clone(), chosen, self.temperature)  # the memory changes below
            losses.append(crd_loss(scores, self._scale(scores, side), drawn.shape[1] / self.samples))
        return torch.stack(losses).sum()

    def _scale(self, scores: Tensor, side: int) -> Tensor:
        """The logarithm of the estimated sum of `exp(score)` over all samples; in training a running mean."""
        present = scores.detach().flatten().logsumexp(0) + math.log(self.samples / scores.numel())
        before = self.log_scale[side]
        if not self.training:
            return present
        mixed = torch.logaddexp(before + math.log(self.momentum), present + math.log1p(-self.momentum))
        self.log_scale[side] = torch.where(before.isfinite(), mixed, present)
        return self.log_scale[side].clone()

    @torch.no_grad()
    def _keep(self, points: list[Tensor], places: Tensor) -> None:
        """A running mean of each sample's embeddings, on the unit sphere."""
        for side, point in enumerate(points):
            mixed = self.momentum * self.memory[side, places] + (1 - self.momentum) * point
            self.memory[side, places] = F.normalize(mixed, dim=1)
