"""What changes while training, as pure functions: the learning rate of the step, other values of the share done."""

from __future__ import annotations

import math
from collections.abc import Sequence


def factor(
    step: int,
    steps: int,
    kind: str,
    warmup: float = 0.0,
    final: float = 0.0,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
) -> float:
    """The factor at optimizer step `step` of `steps`.

    `warmup` and `milestones` are shares of the training. The rate rises linearly over the warm-up, its first step
    already above zero. `cosine` and `one_cycle` end near `final`; `multistep` multiplies by `gamma` at each milestone.
    """
    warm = warmup * steps
    if step < warm:
        return (step + 1) / (math.floor(warm) + 1)
    if kind == "multistep":
        return gamma ** sum(step >= share * steps for share in milestones)
    if kind == "constant":
        return 1.0
    progress = (step - warm) / (steps - warm)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def between(done: float, start: float, end: float, shape: str = "linear", until: float = 1.0) -> float:
    """From `start` to `end`, `linear` or by a `cosine`, reached when the share `until` of the training is done."""
    reached = min(1.0, done / until) if until else 1.0
    if shape == "cosine":
        reached = 0.5 * (1 - math.cos(math.pi * reached))
    return start + (end - start) * reached
