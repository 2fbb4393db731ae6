"""Any classification model of torchvision, made to fit small images."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.error import URLError

from torch import nn

from kdrun.errors import UsageError, suggestion

CHANNELS = 3
SMALL = 64  # pixels up to which a 7x7 stride-2 stem throws away too much
WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")  # which kdrun leaves out
TINY = 16  # pixels up to which residual networks keep the pooling of their stem: see docs/decisions/0004


def input_size(size: int, name: str, stem: str, min_size: int) -> int:
    """Images are enlarged to `min_size`, unless the stem is made small; transformers get whole patches."""
    if _stem(name, stem, size) != "original":
        return size
    size = max(size, min_size)
    patch = _patch(name)
    return size if patch is None else -(-size // patch) * patch


def build(classes: int, channels: int, size: int, name: str, stem: str, min_size: int) -> nn.Module:
    model = _builder(name)(**_arguments(name, classes, size))
    chosen = _stem(name, stem, size)
    if chosen != "original":
        _make_stem_small(model, name, keep_pooling=chosen == "pooled")
    return model


def _builder(name: str) -> Any:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise UsageError(f"torchvision has no classification model {name!r}; {suggestion(name, names)}")
    return models.get_model_builder(name)


def _arguments(name: str, classes: int, size: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {"weights": None, "num_classes": classes}
    if name in WITH_AUXILIARY_HEADS:
        arguments |= {"aux_logits": False, "init_weights": True}
    if _patch(name) is not None:
        arguments["image_size"] = size
    if name.startswith(("resnet", "resnext", "wide_resnet")):
        arguments["zero_init_residual"] = True  # each block starts as the identity: deep ones learn at once
    return arguments


def _patch(name: str) -> int | None:
    """Pixels per patch of a transformer that fixes its image size when built; None for every other model."""
    return int(name.split("_")[2]) if name.startswith("vit_") else None


def _stem(name: str, stem: str, size: int) -> str:
    """`small`, `pooled` or `original`: `auto` decides by family and image size."""
    if stem != "auto":
        return stem
    residual = name.startswith(("resnet", "resnext", "wide_resnet"))
    if size > SMALL or not (residual or name.startswith(("densenet", "googlenet"))):
        return "original"
    return "pooled" if residual and size <= TINY else "small"


def _make_stem_small(model: nn.Module, name: str, keep_pooling: bool) -> None:
    """A 3x3 convolution of stride 1 in place of the first one, and no pooling after it unless that is kept."""
    path, first = next((p, m) for p, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if first.kernel_size != (7, 7):
        raise UsageError(f"model.stem=small: the first convolution of {name} is {first.kernel_size}, not 7x7")
    small = nn.Conv2d(3, first.out_channels, 3, stride=1, padding=1, bias=first.bias is not None)
    model.set_submodule(path, small)
    if keep_pooling:
        return
    pooling = next(p for p, m in model.named_modules() if isinstance(m, nn.MaxPool2d))
    model.set_submodule(pooling, nn.Identity())


class Published(NamedTuple):
    """Weights as torchvision publishes them, and what belongs to them."""

    state: dict[str, Any]
    mean: list[float]
    std: list[float]
    fingerprint: str


def published(name: str, which: str) -> Published:
    """Download (or find in torch's cache) published weights, checked against the hash in their name.

    Raises `UsageError` for a name torchvision does not know, and where there is no network.
    """
    from torchvision import models

    _builder(name)
    known = models.get_model_weights(name).__members__
    if which not in known:
        raise UsageError(f"{name} has no weights {which!r}; {suggestion(which, known)}")
    entry = known[which]
    try:
        state = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, TimeoutError, RuntimeError) as error:
        raise UsageError(
            f"weights={which}: {entry.url} cannot be had ({error}); fetch it and use checkpoint="
        ) from error
    mean, std = list(entry.transforms().mean), list(entry.transforms().std)
    if name in WITH_AUXILIARY_HEADS:  # torchvision's own network undoes that normalisation with this one
        mean, std = [0.5] * CHANNELS, [0.5] * CHANNELS
        state = {key: value for key, value in state.items() if not key.lower().startswith("aux")}
    return Published(dict(state), mean, std, entry.url.rpartition("/")[2])
