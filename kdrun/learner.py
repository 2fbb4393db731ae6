"""The learner: what is optimised and saved. A student, the terms of its loss, and their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdrun.losses import Term
from kdrun.types import Batch, Outputs

Weight = float | Callable[[float], float]


class Learner(nn.Module):
    """A student and the named terms it is trained on. The teacher is no part of it: it is given to each forward.

    `student` answers with `Outputs` (see `Tapped`). `weights` has one number per term, or a function of the share of
    the training that is done.
    """

    def __init__(self, student: nn.Module, terms: Mapping[str, Term], weights: Mapping[str, Weight]) -> None:
        super().__init__()
        self.student = student
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self.progress(0.0)

    def progress(self, done: float) -> None:
        """Said before every step: the share of the training that is done. Weights and terms may follow it."""
        self.done = done
        for term in self.terms.values():
            assert isinstance(term, Term)
            term.progress(done)

    def weight(self, name: str) -> float:
        """The weight of a term at this point of the training."""
        weight = self.weights[name]
        return weight(self.done) if callable(weight) else weight

    def changing_weights(self) -> dict[str, float]:
        """The present weights of those terms that have not the same one throughout."""
        return {name: self.weight(name) for name, weight in self.weights.items() if callable(weight)}

    def forward(self, batch: Batch, teacher: Outputs | None = None) -> tuple[Outputs, dict[str, Tensor]]:
        """The student's outputs, and each term's unweighted loss by name.

        Losses are computed in float32 whatever the student ran in; float64 stays float64.
        """
        outputs = self.student(batch.inputs)
        with torch.autocast(outputs.logits.device.type, enabled=False):
            student = _at_least_float32(outputs)
            target = None if teacher is None else _at_least_float32(teacher)
            losses = {name: term(student, target, batch) for name, term in self.terms.items()}
        return student, losses

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum that is minimised."""
        return torch.stack([self.weight(name) * loss for name, loss in losses.items()]).sum()


def _at_least_float32(outputs: Outputs) -> Outputs:
    raised = {name: _raised(feature) for name, feature in outputs.features.items()}
    return replace(outputs, logits=_raised(outputs.logits), features=raised)


def _raised(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
