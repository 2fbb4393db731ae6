"""The optimizers that configs name: torch's own, without torch's compiler.

torch keeps its compiler away from some methods of its optimizers, and imports it to do so: a third of a launch, whether
anything is compiled or not. What kdrun compiles is a learner, never an optimizer, so it takes the methods underneath.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

KEPT_AWAY = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def uncompiled(kind: type[Optimizer]) -> type[Optimizer]:
    """The same optimizer; in its `step` no gradients are recorded, as in torch's."""
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in KEPT_AWAY}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": uncompiled(SGD),
    "adam": uncompiled(Adam),
    "adamw": uncompiled(AdamW),
}
