"""What travels between the parts: a batch of data, and what a model says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

Inputs = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """B samples.

    inputs   a tensor, or a mapping of tensors, whose first axis is B; opaque to engine and losses
    targets  class numbers `(B,)` int64, soft classes `(B, C)` float, dense `(B, …)`, or None without labels
    index    `(B,)` int64, the number of each sample in its data set: the identity a view is a function of
    views    further views of the same samples, one entry per requested view, each shaped like `inputs`
    view     the number of the view that `inputs` are
    """

    inputs: Inputs
    targets: Tensor | None
    index: Tensor
    views: tuple[Inputs, ...] = ()
    view: int = 0

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Outputs:
    """A model's logits `(B, C, …)`, class axis 1, and the tapped features by tap name."""

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
