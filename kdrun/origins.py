"""Weights from elsewhere: somebody else's file, or published ones, read into one of kdrun's models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from kdrun import lookup
from kdrun.errors import UsageError, brief
from kdrun.models.building import Model, Spec
from kdrun.models.prepared import Preprocess
from kdrun.records import checkpoints
from kdrun.records.fingerprint import file_fingerprint


class Origin(NamedTuple):
    """Weights from elsewhere, loaded into a model: what they are, and whether their classes are the data's."""

    fingerprint: str
    complete: bool


def load_origin(model: Model, node: Mapping[str, Any], classes: Sequence[str]) -> Origin | None:
    """Fill `model` from `checkpoint` or `weights`, as far as they fit; None when neither is set.

    When only the classifier has another shape, the rest is loaded and the classifier stays new (`complete` is False).
    Raises `UsageError` when anything else does not fit, or class names differ.
    """
    if node["checkpoint"] is not None:
        path = Path(node["checkpoint"])
        content = checkpoints.load_foreign(path)
        _adopt(model, node, content.get("spec"), list(classes), path)
        state = state_dict_of(content, node["rename"] or {}, path)
        fingerprint, name = file_fingerprint(path), f"{path}{_said(content)}"
    elif node["weights"] is not None:
        if node["kind"] != "torchvision":
            raise UsageError(
                f"weights={node['weights']} are torchvision's; model kind {node['kind']} has none: use checkpoint="
            )
        published = lookup.module("models", "torchvision").published(node["name"], node["weights"])
        state, fingerprint, name = published.state, published.fingerprint, node["weights"]
        if node["mean"] is None and model.spec["channels"] == 3:
            _normalise(model, published.mean, published.std)
    else:
        return None
    return Origin(fingerprint, _fill(model.net.net, state, name))


def _said(content: Mapping[str, Any]) -> str:
    """What a file says it is, in brackets: the model of kdrun's own, the short facts beside foreign tensors."""
    spec = content.get("spec")
    if isinstance(spec, Mapping) and {"kind", "classes", "channels", "size"} <= set(spec):
        facts = [
            f"a {spec['kind']} for {len(spec['classes'])} classes",
            f"{spec['channels']}x{spec['size']}x{spec['size']} images",
        ]
    else:
        plain = {key: value for key, value in content.items() if isinstance(value, str | int | float)}
        facts = [f"{brief(key, 20)}={brief(value, 40)}" for key, value in list(plain.items())[:3]]
    return f" (it says: {', '.join(facts)})" if facts else ""


def _adopt(model: Model, node: Mapping[str, Any], spec: Spec | None, classes: list[str], path: Path) -> None:
    """Take the normalisation of kdrun's own model files, and insist on equal class names."""
    if spec is None:
        return
    if len(spec["classes"]) == len(classes):
        same_classes(spec["classes"], classes, str(path))
        trained, here = (f"{one['channels']}x{one['size']}x{one['size']}" for one in (spec, model.spec))
        if trained != here:
            raise UsageError(
                f"{path} was trained on {trained} images and would get {here} ones here; "
                "use it as a run (teacher.run=<dir>, kdrun evaluate <file> dataset=<name>), which adapts the images"
            )
    if node["mean"] is None and spec["channels"] == model.spec["channels"]:
        _normalise(model, spec["mean"], spec["std"])


def same_classes(known: Sequence[str], wanted: Sequence[str], name: str) -> None:
    """Raise `UsageError` unless a model knows just the classes of the data, in the same order."""
    if list(known) != list(wanted):
        raise UsageError(f"{name} knows the classes {_few(known)}; the data has {_few(wanted)}; they must be the same")


def _normalise(model: Model, mean: Sequence[float], std: Sequence[float]) -> None:
    model.spec |= {"mean": list(mean), "std": list(std)}
    before = model.net.preprocess
    model.net.preprocess = Preprocess(before.channels, before.size, mean, std, before.network_channels)


def state_dict_of(content: Mapping[str, Any], rename: Mapping[str, str], path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: bare, or under `state_dict` or `model`; `module.` dropped, prefixes renamed."""
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {str(key).removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise UsageError(
            f"{path} has no tensors, only {_few(content)}; a state dict, or one under state_dict or model, is read"
        )
    for before, after in rename.items():
        if not any(_below(key, before) for key in state):
            raise UsageError(f"rename {before}: {path} has no such prefix; its first keys are {_few(state)}")
        renamed = [after + key.removeprefix(before) if _below(key, before) else key for key in state]
        twice = [key for key, count in Counter(renamed).items() if count > 1]
        if twice:
            raise UsageError(f"rename {before} to {after}: {path} would have two values for {_few(twice)}")
        state = dict(zip(renamed, state.values(), strict=True))
    return state


def _below(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(f"{prefix}.")


def _fill(net: nn.Module, state: Mapping[str, Tensor], name: str) -> bool:
    own = net.state_dict()
    counters = "num_batches_tracked"  # absent from files of old torch versions
    missing = [key for key in own if key not in state and not key.endswith(counters)]
    strange = [key for key in state if key not in own]
    other = [key for key in own if key in state and own[key].shape != state[key].shape]
    head = [key for key in other if not _belongs_to_classifier(net, key)]
    if missing or strange or head:
        shapes = [f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in head]
        raise UsageError(
            f"{name} does not fit this model: missing {_few(missing)}; not in the model {_few(strange)}; "
            f"of other shape {_few(shapes)}; its first keys are {_few(state)} "
            "(rename= maps key prefixes; shortcut=pad or projection for a CIFAR ResNet; stem=original for a 7x7 stem)"
        )
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise UsageError(f"{name} has weights that are not finite numbers: {_few(broken)}; use a sound file")
    net.load_state_dict({**own, **{key: value for key, value in state.items() if key not in other}})
    return not other


def _belongs_to_classifier(net: nn.Module, key: str) -> bool:
    """Is this the weight or bias of the last linear or convolutional layer?"""
    layers = [path for path, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return key.rpartition(".")[0] == layers[-1]


def _few(words: Any) -> str:
    words = [brief(word) for word in words]
    return ", ".join(words[:3]) + (f", … ({len(words)})" if len(words) > 3 else "") if words else "nothing"
