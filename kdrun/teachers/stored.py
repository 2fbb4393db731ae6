"""A teacher whose answers are known already: looked up by view and sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from kdrun.teachers.live import LiveTeacher
from kdrun.topk import TopK, joined
from kdrun.types import Batch, Outputs


class StoredTeacher:
    """Logits `(samples, C)` by number of view. Row r is the sample whose number is entry r of the ascending `index`."""

    def __init__(self, views: Mapping[int, Tensor | TopK], index: Tensor, fingerprint: str) -> None:
        self.views, self.fingerprint = views, fingerprint
        self.rows = torch.full((int(index.max()) + 1,), -1, dtype=torch.long, device=index.device)
        self.rows[index] = torch.arange(len(index), device=index.device)

    def __call__(self, batch: Batch) -> Outputs:
        stored = self.views[batch.view]
        rows = self.rows[batch.index].cpu()
        return Outputs(stored[rows].to(batch.index.device).float())


def answers(live: LiveTeacher, batches: Iterable[Batch]) -> Tensor | TopK:
    """The teacher's logits for all batches, in their order, on the CPU: what is stored of them."""
    kept = [live.to_keep(batch) for batch in batches]
    shortened = [one for one in kept if isinstance(one, TopK)]
    return joined(shortened) if shortened else torch.cat([one.cpu() for one in kept if isinstance(one, Tensor)])
