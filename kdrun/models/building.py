"""A model from its spec: the plain description that a model file carries, enough to build the network again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

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


def build(spec: Spec, seed: int = 0) -> Model:
    """A model from its spec, initialised as a function of the seed alone."""
    module = lookup.module("models", spec["kind"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = module.build(len(spec["classes"]), spec["network_channels"], spec["size"], **spec["options"])
    size = (spec["size"], spec["size"])
    preprocess = Preprocess(spec["channels"], size, spec["mean"], spec["std"], spec["network_channels"])
    return Model(Prepared(net, preprocess), spec)
