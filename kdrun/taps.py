"""Taps: named places in a model whose output a loss reads. Where they are is found by `kdrun.tracing`, or told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kdrun.errors import UsageError, suggestion
from kdrun.models.prepared import Prepared
from kdrun.types import Inputs, Outputs

INPUT = ":input"  # ends the place of a tap that takes what a module is given, not what it returns
Caught = dict[str, tuple[Any, int]]  # by tap: a tensor, and how often it had been written to


class Tapped(nn.Module):
    """Any model, made to answer with `Outputs`: its logits and what was caught at its taps.

    `taps` maps a tap's name to the path of a module inside the network, for what it returns, or to `<path>:input` for
    what it is given. `name` is what messages call the model. Raises `UsageError` for a path that does not exist, and
    when a forward overwrites in place what was caught (an in-place ReLU after it, say): it would silently be other
    values.
    """

    def __init__(self, model: nn.Module, taps: Mapping[str, str] | None = None, name: str = "this model") -> None:
        super().__init__()
        self.model, self.name = model, name
        self.taps: dict[str, str] = {}
        self.tap(taps or {})

    @property
    def network(self) -> nn.Module:
        """What the paths of taps start from: the network, without the preparation of its images."""
        return self.model.net if isinstance(self.model, Prepared) else self.model

    def tap(self, taps: Mapping[str, str]) -> None:
        """Answer with just these features from now on."""
        modules = dict(self.network.named_modules())
        for name, path in taps.items():
            module = path.removesuffix(INPUT)
            if module not in modules:
                told = f"tap {name!r} names module {module!r}, which {self.name} does not have"
                raise UsageError(f"{told}; {suggestion(module, filter(None, modules))}")
        self.taps = dict(taps)

    def forward(self, inputs: Inputs) -> Outputs:
        caught: Caught = {}
        hooks = [_catch(self.network, path, name, caught) for name, path in self.taps.items()]  # of this forward only:
        try:  # another wrapper of the same network, or a copy of this one, has no part in them
            logits = self.model(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return Outputs(logits, {name: self._intact(name, caught) for name in self.taps})

    def _intact(self, name: str, caught: Caught) -> Tensor:
        place = f"tap {name!r} of {self.name}, at {self.taps[name]!r},"
        tensor, version = caught.get(name, (None, 0))
        if not isinstance(tensor, Tensor):
            raise UsageError(f"{place} gives no tensor, or is not used in a forward; tap another module")
        if tensor._version != version:
            raise UsageError(
                f"{place} sits before an operation that overwrites its output in place; tap the module after it "
                f"or that module's input ('<path>{INPUT}' where nothing overwrites), or build it with inplace=False"
            )
        return tensor


def _catch(network: nn.Module, path: str, name: str, caught: Caught) -> RemovableHandle:
    module = network.get_submodule(path.removesuffix(INPUT))

    def keep(value: Any) -> None:
        caught[name] = (value, value._version if isinstance(value, Tensor) else 0)

    if path.endswith(INPUT):
        return module.register_forward_pre_hook(lambda _, inputs: keep(inputs[0] if inputs else None))
    return module.register_forward_hook(lambda _, inputs, output: keep(output))
