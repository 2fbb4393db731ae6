"""The learner: what is optimised and saved. A student, the terms of its loss, and their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdrun import parallel
from kdrun.losses import Term
from kdrun.models.building import Model
from kdrun.types import Batch, Outputs

Weight = float | Callable[[float], float]


class Phase(NamedTuple):
    """A stretch of a training: its number, and the shares of the training where it begins and ends."""

    number: int
    begin: float
    end: float


class Learner(nn.Module):
    """A student and the named terms it is trained on. The teacher is no part of it: it is given to each forward.

    `student` answers with `Outputs` (see `Tapped`). `weights` has one number per term, or a function of the share of
    the training that is done. While a term is in its first phase, only such terms count. `shipped` is the model that
    `student` wraps where a term ships more than the student of the config.
    """

    def __init__(
        self,
        student: nn.Module,
        terms: Mapping[str, Term],
        weights: Mapping[str, Weight],
        shipped: Model | None = None,
    ) -> None:
        super().__init__()
        self.student, self.shipped = student, shipped
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self.first = max((term.first for term in terms.values()), default=0.0)
        self.progress(0.0)

    def progress(self, done: float) -> None:
        """Said before every step: the share of the training that is done. Weights and terms may follow it."""
        self.done = done
        for term in self.terms.values():
            assert isinstance(term, Term)
            term.progress(done)

    @property
    def phase(self) -> Phase:
        """Where the training is. A loss without phases is in its only one throughout."""
        if self.done < self.first:
            return Phase(0, 0.0, self.first)
        return Phase(int(self.first > 0), self.first, 1.0)

    def counts(self, name: str) -> bool:
        """Does a term count in this phase?"""
        term = self.terms[name]
        assert isinstance(term, Term)
        return self.done < term.first if self.done < self.first else term.stays

    def weight(self, name: str) -> float:
        """The weight of a term at this point of the training; 0 in a phase without it."""
        weight = self.weights[name]
        return (weight(self.done) if callable(weight) else weight) if self.counts(name) else 0.0

    def weights_now(self) -> dict[str, float]:
        """The weights at this point of the training, where there is more than one term to weigh."""
        return {name: self.weight(name) for name in self.weights} if len(self.weights) > 1 else {}

    def forward(self, batch: Batch, teacher: Outputs | None = None) -> tuple[Outputs, dict[str, Tensor]]:
        """The student's outputs, and by name the unweighted loss of each term that counts in this phase.

        Losses are computed in float32 whatever the student ran in; float64 stays float64.
        """
        with parallel.own_numbers(batch):
            outputs = self.student(batch.inputs)
        with torch.autocast(outputs.logits.device.type, enabled=False):
            student = _at_least_float32(outputs)
            target = None if teacher is None else _at_least_float32(teacher)
            losses = {name: self._loss(name, student, target, batch) for name in self.terms if self.counts(name)}
        return student, losses

    def _loss(self, name: str, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """Where several processes share a batch: of all its samples, or of a part that counts by its size."""
        term = self.terms[name]
        if term.relational:
            loss: Tensor = term(*parallel.of_all(student, teacher, batch))
            return loss
        return parallel.weighed(term(student, teacher, batch), batch)

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum that is minimised."""
        return torch.stack([self.weight(name) * loss for name, loss in losses.items()]).sum()


def _at_least_float32(outputs: Outputs) -> Outputs:
    raised = {name: _raised(feature) for name, feature in outputs.features.items()}
    return replace(outputs, logits=_raised(outputs.logits), features=raised)


def _raised(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
