"""How far the student imitates its teacher (Stanton et al. 2021, 2106.05945): agreement, and KL of the outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TASK = "classification"


def sums(logits: Tensor, targets: Tensor, teacher: Tensor | None) -> Tensor | None:
    """`[same class chosen, summed KL(teacher ‖ student) at temperature 1, samples]`; None without a teacher."""
    if teacher is None:
        return None
    agree = (logits.argmax(dim=1) == teacher.argmax(dim=1)).sum(dtype=torch.float64)
    log_student, log_teacher = logits.double().log_softmax(dim=1), teacher.double().log_softmax(dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return torch.stack([agree, divergence, torch.full_like(agree, len(targets))])


def result(total: Tensor) -> dict[str, float]:
    agree, divergence, count = total.tolist()
    return {"agreement": agree / count, "kl": divergence / count}
