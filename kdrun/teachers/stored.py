"""A teacher whose answers are known already: looked up by view and sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from kdrun import processes
from kdrun.device import room_for_data
from kdrun.records.store import View
from kdrun.teachers.live import LiveTeacher
from kdrun.topk import TopK, joined
from kdrun.types import Batch, Outputs


class StoredTeacher:
    """Answers by number of view. Row r is the sample whose number is entry r of the ascending `index`.

    The view in use lies where the samples do if it fits there, so that looking it up does not wait for the device.
    """

    def __init__(self, views: Mapping[int, View], index: Tensor, fingerprint: str) -> None:
        self.views, self.fingerprint = views, fingerprint
        self.rows = torch.full((int(index.max()) + 1,), -1, dtype=torch.long, device=index.device)
        self.rows[index] = torch.arange(len(index), device=index.device)
        self.near: dict[int, View] = {}  # the view in use, by its number

    def __call__(self, batch: Batch) -> Outputs:
        device = batch.index.device
        if batch.view not in self.near:
            self.near = {batch.view: _near(self.views[batch.view], device)}
        view = self.near[batch.view]
        outputs = view[self.rows[batch.index].to(view.device)]
        features = {name: feature.to(device).float() for name, feature in outputs.features.items()}
        return Outputs(outputs.logits.to(device).float(), features)


def _near(view: View, device: torch.device) -> View:
    return view.to(device) if sum(one.nbytes for one in view.tensors) <= room_for_data(device.type) else view


def answers(live: LiveTeacher, batches: Iterable[Batch]) -> View | None:
    """The teacher's answers to all batches, in their order, on the CPU: what is stored of them.

    Where several processes share the batches, the first one has them all and the others None.
    """
    kept = processes.joined([_on_the_cpu(live.to_keep(batch)) for batch in batches])
    if not kept:
        return None
    short = [one.logits for one in kept if isinstance(one.logits, TopK)]
    logits = joined(short) if short else torch.cat([one.logits for one in kept if isinstance(one.logits, Tensor)])
    return View(logits, {name: torch.cat([one.features[name] for one in kept]) for name in live.kept_features})


def _on_the_cpu(view: View) -> View:
    logits = view.logits
    here = joined([logits]) if isinstance(logits, TopK) else logits.cpu()
    return View(here, {name: feature.cpu() for name, feature in view.features.items()})
