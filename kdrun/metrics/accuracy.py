"""Top-1 and top-5 accuracy, as fractions."""

from __future__ import annotations

import torch
from torch import Tensor

TASK = "classification"


def sums(logits: Tensor, targets: Tensor, teacher: Tensor | None) -> Tensor:
    """`[correct, among the five highest, samples]`. With at most five classes the second is the third."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hit = best == targets[:, None]
    count = torch.tensor(float(len(targets)), dtype=torch.float64, device=logits.device)
    return torch.stack([hit[:, 0].sum(dtype=torch.float64), hit.sum(dtype=torch.float64), count])


def result(total: Tensor) -> dict[str, float]:
    correct, among_five, count = total.tolist()
    return {"accuracy": correct / count, "top5": among_five / count}
