"""Any model of timm, an extra: pip install 'kdrun[timm]'."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdrun.errors import UsageError, suggestion


def input_size(size: int, name: str, min_size: int) -> int:
    return max(size, min_size)


def build(classes: int, channels: int, size: int, name: str, min_size: int) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UsageError("model kind timm needs an extra: pip install 'kdrun[timm]'") from None
    if not timm.is_model(name):
        raise UsageError(f"timm has no model {name!r}; {suggestion(name, timm.list_models())}")
    arguments: dict[str, Any] = {"pretrained": False, "num_classes": classes, "in_chans": channels}
    try:
        return timm.create_model(name, img_size=size, **arguments)
    except TypeError:  # models that take any image size have no such argument
        return timm.create_model(name, **arguments)
