"""Where the taps of a model are: found by watching one forward pass.

A convolutional or hierarchical network has a stage for every resolution of its maps, a transformer one for every
quarter of its blocks, a perceptron one for every hidden layer. `embedding` is what the classifier is given. A place
whose tensor is overwritten in place later in the pass is never picked: a hook there would hand out other values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.taps import INPUT, Tapped

WEIGHTED = (nn.Conv2d, nn.Linear)


@dataclass
class Call:
    """One call of a module: what it was given and returned, how often each had been written to, the calls within."""

    path: str
    module: nn.Module
    given: Tensor | None
    given_version: int
    result: Tensor | None = None
    version: int = 0
    inner: list[Call] = field(default_factory=list)


def find_taps(model: Tapped, images: Tensor) -> dict[str, str]:
    """`stage1` … `stageN` and `embedding` of a model, for `Tapped.tap`, from a pass over a few images."""
    whole, calls = trace(model.network, lambda: model(images))
    once = {path for path, count in Counter(call.path for call in calls).items() if count == 1}
    heads = [call for call in calls if isinstance(call.module, WEIGHTED)]
    if not heads:
        return {}
    samples, head = len(images), heads[-1]
    stages = _stages_of_maps(_spine(whole), head, samples, once)
    if len(stages) < 2:
        stages = _stages_of_tokens(calls, samples) or stages or _stages_of_layers(calls, heads)
    taps = {f"stage{number}": place for number, place in enumerate(stages, 1)}
    return taps | dict(zip(["embedding"], _given_to(head, calls), strict=False))


def trace(network: nn.Module, run: Callable[[], Any]) -> tuple[Call, list[Call]]:
    """The call of a network while `run` runs it in eval mode, and all calls within it in the order they ended."""
    open_calls: list[Call] = []
    ended: list[Call] = []
    hooks = []
    for path, module in network.named_modules():

        def begin(module: nn.Module, inputs: tuple[Any, ...], path: str = path) -> None:
            given = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
            call = Call(path, module, given, 0 if given is None else given._version)
            if open_calls:
                open_calls[-1].inner.append(call)
            open_calls.append(call)

        def end(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            call = open_calls.pop()
            if isinstance(output, Tensor):
                call.result, call.version = output, output._version
            ended.append(call)

        hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            run()
    finally:
        for module, training in modes:
            module.training = training
        for hook in hooks:
            hook.remove()
    return ended[-1], ended


def side(tensor: Tensor | None, samples: int) -> int | None:
    """Pixels along the side of a square map `(B, D, H, W)` or `(B, H, W, D)`; None for any other tensor."""
    if tensor is None or tensor.dim() != 4 or len(tensor) != samples:
        return None
    if tensor.shape[2] == tensor.shape[3]:
        return tensor.shape[3]
    return tensor.shape[1] if tensor.shape[1] == tensor.shape[2] else None


# ------------------------------------------------------------------------------------------------ kinds of network


def _spine(call: Call) -> list[Call]:
    """The calls that follow each other. One that more than halves the resolution, or makes other than a map of a map,
    is opened; a block stays whole: what it does inside, in branches and at other widths, is nobody's stage."""
    parts: list[Call] = []
    for inner in call.inner:
        before, after = (side(one, 0 if one is None else len(one)) for one in (inner.given, inner.result))
        whole = before is not None and after is not None and before <= 2 * after + 1
        parts += [inner] if whole or not inner.inner else _spine(inner)
    return parts


def _stages_of_maps(spine: Sequence[Call], head: Call, samples: int, once: set[str]) -> list[str]:
    """The end of each stretch of equal resolution in which something is learned."""
    maps = []
    for call in spine:
        if head.module in call.module.modules() or _pools_all(call.module):
            break
        maps.append(call)
    stages = []
    for stretch in _stretches(maps, samples):
        calls = _up_to_the_last_block(stretch)
        if calls:
            following = spine[spine.index(calls[-1]) + 1 :]
            place = next(_intact_places(calls, following[0] if following else None, samples, once), None)
            stages += [] if place is None else [place]
    return stages


def _stretches(spine: Sequence[Call], samples: int) -> list[list[Call]]:
    """Maps of one resolution after another. The few pixels that a convolution without padding loses are no step."""
    stretches: list[list[Call]] = []
    began = 0
    for call in spine:
        now = side(call.result, samples)
        if now is not None and (not stretches or 3 * now <= 2 * began):
            stretches.append([call])
            began = now
        elif now is not None:
            stretches[-1].append(call)
    return stretches


def _up_to_the_last_block(calls: list[Call]) -> list[Call]:
    """Without what comes after the last block: a lone norm there belongs to the classifier. What follows a lone layer
    (its norm, its activation) stays. Nothing, when nothing is learned here."""
    learned = [number for number, call in enumerate(calls) if _has(call.module, WEIGHTED)]
    if not learned:
        return []
    return calls[: learned[-1] + 1] if calls[learned[-1]].inner else calls


def _intact_places(calls: list[Call], following: Call | None, samples: int, once: set[str]) -> Iterator[str]:
    """Places for the end of a stage, best first: its last output, else what the next module is given, else earlier."""
    last, *earlier = calls[::-1]
    for call in (last, None, *earlier):
        if call is not None and call.path in once and _intact(call.result, call.version):
            yield call.path
        if call is None and following is not None and following.path in once:
            same = side(following.given, samples) == side(last.result, samples)
            if same and _intact(following.given, following.given_version):
                yield f"{following.path}{INPUT}"


def _stages_of_tokens(calls: Sequence[Call], samples: int) -> list[str]:
    """The blocks at each quarter of the depth: of all siblings that give `(B, L, D)`, the outermost."""
    groups: dict[tuple[str, type, torch.Size], list[str]] = {}
    for call in calls:
        tokens = call.result is not None and call.result.dim() == 3 and len(call.result) == samples
        learned = any(True for _ in call.module.parameters())
        if tokens and call.result is not None and learned and _intact(call.result, call.version):
            kin = (call.path.rpartition(".")[0], type(call.module), call.result.shape)
            groups.setdefault(kin, []).append(call.path)
    siblings = [(kin[0], paths) for kin, paths in groups.items() if len(set(paths)) > 1]
    if not siblings:
        return []
    _, blocks = min(siblings, key=lambda one: one[0].count(".") + (one[0] != ""))
    ends = {-(-len(blocks) * quarter // 4) - 1 for quarter in (1, 2, 3, 4)}
    return [blocks[end] for end in sorted(ends)]


def _stages_of_layers(calls: Sequence[Call], heads: Sequence[Call]) -> list[str]:
    """Of a network without maps: what each linear layer after the first is given."""
    return [place for call in heads[1:] for place in _given_to(call, calls)]


def _given_to(layer: Call, calls: Sequence[Call]) -> list[str]:
    """The place of a layer's input, before the dropout in front of it where that writes to a tensor of its own."""
    first = layer
    for call in calls[::-1]:
        drops = isinstance(call.module, nn.Dropout) and not call.module.inplace
        if drops and call.result is not None and call.result is first.given:
            first = call
    return [f"{first.path}{INPUT}"] if _intact(first.given, first.given_version) else []


def _intact(tensor: Tensor | None, version: int) -> bool:
    return tensor is not None and tensor._version == version


def _has(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    return any(isinstance(one, kinds) for one in module.modules())


def _pools_all(module: nn.Module) -> bool:
    """Is this the pooling over all pixels, from which on there is no map? Found by name: timm has its own."""
    adaptive = any("Adaptive" in type(one).__name__ for one in module.modules())
    return adaptive and not any(True for _ in module.parameters())
