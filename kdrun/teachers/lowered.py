"""A teacher made cheaper to ask: batch norms folded into convolutions, weights in half precision; and whether it
still gives the same answers. Nothing is learned from a teacher that answers differently."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdrun.models.prepared import Prepared
from kdrun.taps import Tapped
from kdrun.types import Outputs

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
MOST_DIVERGENCE = 1e-3  # nats, at temperature 1: at higher ones the same logits differ less
LEAST_AGREEMENT = 0.98


def lowered(model: Tapped, precision: str) -> Tapped:
    """A copy of the model, folded, whose network has its weights in `precision` (bf16 or fp16). Images stay float32."""
    prepared = model.model
    assert isinstance(prepared, Prepared)
    network = HalfPrecision(folded(prepared.net), TYPES[precision])
    return Tapped(Prepared(network, copy.deepcopy(prepared.preprocess)), name=model.name)


class HalfPrecision(nn.Module):
    """A network that computes in its own type throughout, and answers in float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            answer: Tensor = self.network(x.to(self.dtype))
        return answer.float()


def folded(network: nn.Module) -> nn.Module:
    """A copy in eval mode, each batch norm that directly follows a convolution multiplied into it.

    Where the network cannot be traced, and so what follows what is not known, the copy is as it was.
    """
    copied = copy.deepcopy(network).eval()
    for convolution, norm in list(_followed(copied)):
        conv, bn = copied.get_submodule(convolution), copied.get_submodule(norm)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(bn, nn.BatchNorm2d)
        copied.set_submodule(convolution, fuse_conv_bn_eval(conv, bn))
        copied.set_submodule(norm, nn.Identity())
    return copied


def _followed(network: nn.Module) -> Iterator[tuple[str, str]]:
    """The names of convolutions and of the batch norms that alone read what they give; each is used once."""
    try:
        graph = fx.Tracer().trace(network)
    except Exception:  # whatever a network's Python does that cannot be traced
        return
    called = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(node.target for node in called)
    for node in called:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        pair = (network.get_submodule(str(before.target)), network.get_submodule(str(node.target)))
        once = times[before.target] == times[node.target] == 1
        if once and type(pair[0]) is nn.Conv2d and type(pair[1]) is nn.BatchNorm2d and pair[1].track_running_stats:
            yield str(before.target), str(node.target)


@dataclass(frozen=True)
class Likeness:
    """How like a lowered teacher answers to the original: mean KL divergence in nats, share of equal classes.

    There is no divergence from answers that are not finite, or not there.
    """

    divergence: float | None
    agreement: float

    @property
    def good(self) -> bool:
        near = self.divergence is not None and self.divergence <= MOST_DIVERGENCE
        return near and self.agreement >= LEAST_AGREEMENT


def likeness(original: Outputs, other: Outputs) -> Likeness:
    """Of the logits `(B, C)` of both."""
    expected, got = original.logits.float(), other.logits.float()
    divergence = F.kl_div(got.log_softmax(1), expected.log_softmax(1), log_target=True, reduction="batchmean").item()
    agreement = (expected.argmax(1) == got.argmax(1)).float().mean().item()
    return Likeness(divergence if math.isfinite(divergence) else None, agreement)
