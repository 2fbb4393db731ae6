"""A model from its spec: the plain description that a model file carries, enough to build the network again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from kdrun import lookup
from kdrun.models.prepared import Prepared, Preprocess
from kdrun.taps import Tapped

Spec = dict[str, Any]  # kind, options, classes, channels, size, network_channels, mean, std


@dataclass
class Model:
    """A model ready for images, and its self-describing spec: all that is needed to build it again."""

    net: Prepared
    spec: Spec

    def tapped(self) -> Tapped:
        return Tapped(self.net, name=str(self.spec["options"].get("name", self.spec["kind"])))


class _Unfilled(TorchFunctionMode):
    """Leaves random initialisation out. On the meta device torch would import its compiler for it, 1.4 s."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):  # of tensors, and of torch.nn.init
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def outline(spec: Spec) -> dict[str, torch.Size]:
    """The shape of every weight of the network that a spec describes, mostly without the memory for them."""
    try:
        with torch.device("meta"), _Unfilled():
            model = build(spec)
    except NotImplementedError:  # regnets compute their widths with tensors; they have no widths to be given
        model = build(spec)
    return {name: weight.shape for name, weight in model.net.net.state_dict().items()}


def build(spec: Spec, seed: int = 0) -> Model:
    """A model from its spec, initialised as a function of the seed alone."""
    module = lookup.module("models", spec["kind"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = module.build(len(spec["classes"]), spec["network_channels"], spec["size"], **spec["options"])
    size = (spec["size"], spec["size"])
    preprocess = Preprocess(spec["channels"], size, spec["mean"], spec["std"], spec["network_channels"])
    return Model(Prepared(net, preprocess), spec)
