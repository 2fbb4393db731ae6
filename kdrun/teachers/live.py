"""A teacher that answers by running its model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kdrun.device import autocast, place
from kdrun.records.store import View
from kdrun.taps import Tapped
from kdrun.topk import TopK, shortened
from kdrun.types import Batch, Outputs


class LiveTeacher:
    """A frozen model in eval mode. It belongs to no learner, so it is never optimised nor saved with a student.

    `model` answers with `Outputs`. A live and a stored teacher give the same: below fp32 the logits are rounded to half
    precision, the type in which they are stored; and with `top_k` they are shortened (see `kdrun.topk`).
    """

    def __init__(self, model: Tapped, fingerprint: str, device: str, precision: str, top_k: int | None = None) -> None:
        self.model = place(model, device, precision).requires_grad_(False)
        self.model.eval()
        self.fingerprint, self.device, self.precision, self.top_k = fingerprint, device, precision, top_k
        self.kept_features: dict[str, int] = {}  # by tap, the width of a vector that is stored beside the logits
        self.asked = 0  # samples

    def __call__(self, batch: Batch) -> Outputs:
        outputs = self._outputs(batch)
        kept = self._kept(outputs)
        logits = kept.logits.logits() if isinstance(kept.logits, TopK) else kept.logits
        return Outputs(logits, {**outputs.features, **kept.features})

    def to_keep(self, batch: Batch) -> View:
        """What is stored of the answer: logits and features."""
        return self._kept(self._outputs(batch))

    def _outputs(self, batch: Batch) -> Outputs:
        self.asked += len(batch)
        # no_grad, not inference_mode: losses may save teacher features for their backward
        with torch.no_grad(), autocast(self.device, self.precision):
            outputs: Outputs = self.model(batch.inputs)
        return outputs

    def _kept(self, outputs: Outputs) -> View:
        features = {name: self._rounded(outputs.features[name]) for name in self.kept_features}
        if self.top_k is None:
            return View(self._rounded(outputs.logits), features)
        short = shortened(outputs.logits.float(), self.top_k)
        return View(replace(short, values=self._rounded(short.values)), features)

    def _rounded(self, values: Tensor) -> Tensor:
        return values if self.precision == "fp32" else values.half().float()
