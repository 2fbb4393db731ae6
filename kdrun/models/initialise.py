"""The initialisation that networks built from scratch share."""

from __future__ import annotations

from torch import nn


def kaiming(model: nn.Module) -> None:
    """He et al. 2015, 1502.01852, fan out, for every convolution; linear layers keep torch's own."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
