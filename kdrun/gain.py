"""What distillation gained over the student alone, and how much of the gap to the teacher that closes."""

from __future__ import annotations

import math


def gain(student: float, alone: float, teacher: float, samples: int) -> dict[str, float | None]:
    """`gain` = student - alone; `gap_closed` = gain / (teacher - alone). Accuracies in [0, 1] on `samples` images.

    `gap_closed` is None when teacher and alone differ by less than two standard errors of that difference (binomial,
    the two taken as independent): a ratio over noise is not a result.
    """
    difference = teacher - alone
    error = math.sqrt((teacher * (1 - teacher) + alone * (1 - alone)) / samples)
    closed = None if abs(difference) < 2 * error or difference == 0 else (student - alone) / difference
    return {"gain": student - alone, "gap_closed": closed}
