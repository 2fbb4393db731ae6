"""The learner: what is optimised and saved. A student, the terms of its loss, and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdrun.losses import Term
from kdrun.types import Batch, Outputs


class Learner(nn.Module):
    """A student and the named terms it is trained on. The teacher is no part of it: it is given to each forward.

    `student` answers with `Outputs` (see `Tapped`). `weights` has one number per term.
    """

    def __init__(self, student: nn.Module, terms: Mapping[str, Term], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.student = student
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)

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
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()


def _at_least_float32(outputs: Outputs) -> Outputs:
    raised = {name: _raised(feature) for name, feature in outputs.features.items()}
    return replace(outputs, logits=_raised(outputs.logits), features=raised)


def _raised(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
