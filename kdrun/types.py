"""What travels between the parts: a batch of data, and what a model says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

Inputs = Tensor | Mapping[str, Tensor]


class Part(NamedTuple):
    """A process's part of a batch: the process's number, and how many of the samples each process has."""

    number: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """B samples.

    inputs   a tensor, or a mapping of tensors, whose first axis is B; opaque to engine and losses
    targets  class numbers `(B,)` int64, soft classes `(B, C)` float, dense `(B, …)`, or None without labels
    index    `(B,)` int64, the number of each sample in its data set: the identity a view is a function of
    views    further views of the same samples, one entry per requested view, each shaped like `inputs`
    view     the number of the view that `inputs` are
    part     which part of a batch these are, where several processes share it. Samples beyond the part's size count
             for nothing: a process without any still needs some to compute with
    """

    inputs: Inputs
    targets: Tensor | None
    index: Tensor
    views: tuple[Inputs, ...] = ()
    view: int = 0
    part: Part | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def own(self) -> int:
        """How many of these samples count."""
        return len(self) if self.part is None else self.part.sizes[self.part.number]

    @property
    def whole(self) -> int:
        """How many samples the batch has in all processes together."""
        return len(self) if self.part is None else sum(self.part.sizes)


@dataclass(frozen=True)
class Outputs:
    """A model's logits `(B, C, …)`, class axis 1, and the tapped features by tap name."""

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
