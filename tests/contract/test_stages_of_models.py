"""Every model that can be chosen has taps without configuration: names, order, shapes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch

from kdrun import tracing
from kdrun.adapters import as_map, is_map
from kdrun.models.building import build
from kdrun.taps import Tapped
from kdrun.tracing import find_taps
from kdrun.types import Outputs
from tests.conftest import mutated
from tests.contract.test_choices import MODELS, SMALL, spec

STAGES = {  # channels and side of each stage's map at 3x32x32, enlarged where the model asks for more: as in the papers
    "resnet8x4": [(64, 32), (128, 16), (256, 8)],
    "resnet110": [(16, 32), (32, 16), (64, 8)],
    "wrn_16_2": [(32, 32), (64, 16), (128, 8)],
    "vgg8": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)],
    "torchvision_vgg13": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)],
    "cifar_mobilenet_v2_half": [(12, 16), (16, 8), (48, 4), (1280, 2)],
    "resnet18": [(64, 32), (128, 16), (256, 8), (512, 4)],
    "resnet152": [(256, 32), (512, 16), (1024, 8), (2048, 4)],
    "mobilenet": [(16, 24), (24, 12), (32, 6), (96, 3), (1280, 2)],
    "densenet121": [(256, 32), (512, 16), (1024, 8), (1024, 4)],
    "convnext_tiny": [(96, 8), (192, 4), (384, 2), (768, 1)],
    "swin_t": [(96, 8), (192, 4), (384, 2), (768, 1)],
    "vit_b_16": [(768, 2)] * 4,
    "cnn": [(32, 32), (64, 16)],
    "timm": [(64, 16), (256, 8), (512, 4), (1024, 2), (2048, 1)],
}
PLACES = {
    "resnet18": ["layer1", "layer2", "layer3", "layer4", "fc:input"],
    "wrn_16_2": ["stage1", "stage2", "stage3", "fc:input"],
    "densenet121": [*(f"features.denseblock{number}" for number in (1, 2, 3, 4)), "classifier:input"],
    "vit_b_16": [*(f"encoder.layers.encoder_layer_{number}" for number in (2, 5, 8, 11)), "heads.head:input"],
    "mlp": ["3:input", "3:input"],
}


def tapped(name: str, channels: int = 3, size: int = 32) -> tuple[Tapped, Outputs]:
    """The model on meta tensors, and its answer in training mode to two images."""
    return _tapped(name, channels, size, find_taps)  # a search with a mistake in it is asked anew


@functools.cache
def _tapped(name: str, channels: int, size: int, search: Callable[..., dict[str, str]]) -> tuple[Tapped, Outputs]:
    with nullcontext() if name.startswith("regnet") else torch.device("meta"):
        model = build(spec(name, channels, size)).tapped()
    model.to("meta")
    images = torch.zeros(2, channels, size, size, device="meta")
    model.tap(search(model, images))
    assert model.training
    small = any(one.shape[2:].numel() == 1 for one in model(images).features.values() if one.dim() == 4)
    return model, (model.eval() if small else model)(images)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_stages_and_an_embedding(name: str) -> None:
    for channels, size in ((1, 8), (3, 32))[name not in SMALL :]:
        _, outputs = tapped(name, channels, size)
        *stages, last = outputs.features
        assert last == "embedding"
        assert stages == [f"stage{number}" for number in range(1, len(stages) + 1)]
        assert len(stages) == 1 if name == "mlp" else 2 <= len(stages) <= 6
        assert outputs.features["embedding"].shape[0] == 2
        if name != "mlp":
            maps = [as_map(outputs.features[stage]) for stage in stages]
            assert all(is_map(outputs.features[stage]) for stage in stages)
            falls = [one.shape[2] > other.shape[2] for one, other in pairwise(maps)]
            assert not any(falls) if name.startswith("vit") else all(falls)


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_those_of_the_literature(name: str) -> None:
    _, outputs = tapped(name)
    maps = [as_map(feature) for tap, feature in outputs.features.items() if tap != "embedding"]
    assert [(one.shape[1], one.shape[3]) for one in maps] == STAGES[name]


@pytest.mark.parametrize("name", PLACES)
def test_places_are_where_one_would_look_for_them(name: str) -> None:
    assert list(tapped(name)[0].taps.values()) == PLACES[name]


@pytest.mark.parametrize(
    ("before", "after", "model"),
    [
        # the norm before the classifier as the end of the last stage
        ("calls[: learned[-1] + 1] if calls[learned[-1]].inner else calls", "calls[-1:]", "wrn_16_2"),
        ("before <= 2 * after + 1", "False", "mobilenet"),  # the inside of a block, six times as wide, as a stage
        ("-(-len(blocks) * quarter // 4) - 1", "0", "vit_b_16"),
    ],
)
def test_a_search_that_looks_elsewhere_is_noticed(
    before: str, after: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mutated(tracing, before, after)
    monkeypatch.setitem(globals(), "find_taps", wrong.find_taps)
    check = (
        test_places_are_where_one_would_look_for_them if model in PLACES else test_stages_are_those_of_the_literature
    )
    with pytest.raises(AssertionError):
        check(model)


def test_names_are_in_order_for_more_than_nine() -> None:
    assert all(re.fullmatch(r"stage\d+|embedding", tap) for tap in tapped("inception_v3")[0].taps)
