"""Taps: named places in a model whose output a loss reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdrun.errors import UsageError
from kdrun.types import Inputs, Outputs


class Tapped(nn.Module):
    """Any model, made to answer with `Outputs`: its logits and what the tapped modules returned.

    `taps` maps a tap's name to the path of a module inside `model`. Raises `UsageError` for a path that does not
    exist, and at the first forward for a tap whose output is overwritten in place by a later module (an in-place
    ReLU, say): what a hook kept would silently be other values.
    """

    def __init__(self, model: nn.Module, taps: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.model = model
        self._caught: dict[str, tuple[Tensor, int]] = {}
        modules = dict(model.named_modules())
        for name, path in (taps or {}).items():
            if path not in modules:
                raise UsageError(f"tap {name!r} names module {path!r}, which this model does not have")
            modules[path].register_forward_hook(self._catch(name))

    def forward(self, inputs: Inputs) -> Outputs:
        self._caught = {}
        logits = self.model(inputs)
        features = {}
        for name, (tensor, version) in self._caught.items():
            if tensor._version != version:
                raise UsageError(
                    f"tap {name!r} sits before an operation that overwrites its output in place; "
                    "tap the module after it, or build the model with inplace=False"
                )
            features[name] = tensor
        self._caught = {}
        return Outputs(logits, features)

    def _catch(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._caught[name] = (output, output._version)

        return hook
