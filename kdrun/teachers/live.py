"""A teacher that answers by running its model."""

from __future__ import annotations

from dataclasses import replace

import torch

from kdrun.device import autocast, place
from kdrun.taps import Tapped
from kdrun.types import Batch, Outputs


class LiveTeacher:
    """A frozen model in eval mode. It belongs to no learner, so it is never optimised nor saved with a student.

    `model` answers with `Outputs`. Below fp32 the logits are rounded to half precision, the type in which teacher
    outputs are stored, so that a live and a stored teacher give the same.
    """

    def __init__(self, model: Tapped, fingerprint: str, device: str, precision: str) -> None:
        self.model = place(model, device, precision).requires_grad_(False)
        self.model.eval()
        self.fingerprint, self.device, self.precision = fingerprint, device, precision
        self.asked = 0  # samples

    def __call__(self, batch: Batch) -> Outputs:
        self.asked += len(batch)
        # no_grad, not inference_mode: losses may save teacher features for their backward
        with torch.no_grad(), autocast(self.device, self.precision):
            outputs = self.model(batch.inputs)
        if self.precision == "fp32":
            return outputs
        return replace(outputs, logits=outputs.logits.half().float())
