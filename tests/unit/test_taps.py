"""Taps in small networks, one difficulty each: in-place operations, dropout, branches, layouts, wrappers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun import taps
from kdrun.adapters import Regressor, as_map, as_vector, is_map, resized
from kdrun.errors import UsageError
from kdrun.pairing import Pair, by_depth, pair_embeddings, pair_last, pair_middle, pair_stages
from kdrun.taps import Tapped
from kdrun.tracing import find_taps
from kdrun.types import Outputs
from tests.conftest import mutated

IMAGES = torch.randn(2, 3, 8, 8)


def found(net: nn.Module, images: Tensor = IMAGES) -> dict[str, str]:
    return find_taps(Tapped(net), images)


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


class Functional(nn.Module):
    """Every module's output is overwritten by a function: only the inputs of the next modules are intact."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = conv(3, 4), conv(4, 5, stride=2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x), inplace=True)
        x = F.relu(self.two(x), inplace=True)
        return self.head(x.mean(dim=(2, 3)))


def test_what_is_overwritten_in_place_is_taken_where_it_is_whole() -> None:
    net = nn.Sequential(conv(3, 4), nn.ReLU(True), conv(4, 5, 2), nn.ReLU(True), nn.Flatten(), nn.Linear(80, 2))
    places = found(net)
    assert places == {"stage1": "1", "stage2": "3", "embedding": "5:input"}
    outputs = Tapped(net, places)(IMAGES)
    assert torch.equal(outputs.features["stage1"], net[:2](IMAGES))
    functional = Functional()
    assert found(functional) == {"stage1": "two:input", "embedding": "head:input"}
    caught = Tapped(functional, found(functional))(IMAGES).features["stage1"]
    assert torch.equal(caught, functional.one(IMAGES).relu())


def overwritten(module: object) -> None:
    net = nn.Sequential(conv(3, 4), nn.ReLU(inplace=True))
    with pytest.raises(UsageError, match=r"tap 'stage1' of a net, at '0', .* overwrites its output in place"):
        module.Tapped(net, {"stage1": "0"}, name="a net")(IMAGES)  # type: ignore[attr-defined]


def test_a_tap_that_would_lie_is_refused() -> None:
    overwritten(taps)
    wrong = mutated(taps, "tensor._version != version", "False")
    with pytest.raises(pytest.fail.Exception):
        overwritten(wrong)


def test_a_place_that_is_not_there_or_gives_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"tap 'stage1' names module 'layer9', which .* not have; .*head"):
        Tapped(Functional(), {"stage1": "layer9"})
    net = Functional()
    net.extra = nn.Linear(1, 1)
    with pytest.raises(UsageError, match="is not used in a forward"):
        Tapped(net, {"stage1": "extra"})(IMAGES)


def test_dropout_does_not_reach_the_embedding_unless_it_overwrites_it() -> None:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    apart = nn.Sequential(conv(3, 4), *head, nn.Dropout(), nn.Linear(4, 2))
    within = nn.Sequential(conv(3, 4), *head, nn.Dropout(inplace=True), nn.Linear(4, 2))
    assert found(apart)["embedding"] == "3:input"
    assert found(within)["embedding"] == "4:input"
    for net in (apart, within):
        assert Tapped(net, found(net)).train()(IMAGES).features["embedding"].shape == (2, 4)


def test_the_search_leaves_no_trace() -> None:
    net = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 2))
    net[1].eval()
    before = copy.deepcopy(net.state_dict())
    found(net)
    assert [module.training for module in net] == [True, False, True, True]
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_two_wrappers_and_a_copy_of_one_network_do_not_disturb_each_other() -> None:
    net = Functional()
    first, second = Tapped(net, {"stage1": "two:input"}), Tapped(net, {"embedding": "head:input"})
    third = copy.deepcopy(first)
    assert [list(one(IMAGES).features) for one in (first, second, third)] == [["stage1"], ["embedding"], ["stage1"]]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_gradients_flow_through_a_tap() -> None:
    net = Functional()
    Tapped(net, {"stage1": "two:input"})(IMAGES).features["stage1"].sum().backward()
    assert net.one.weight.grad is not None
    assert net.two.weight.grad is None


def test_a_model_without_layers_has_no_taps() -> None:
    assert found(nn.Identity()) == {}
    assert found(nn.Linear(3, 2), torch.ones(2, 3)) == {"embedding": ":input"}


# ------------------------------------------------------------------------------------------- pairing and adapters


def test_stages_pair_by_relative_depth_and_the_last_with_the_last() -> None:
    def numbers(student: int, teacher: int) -> list[tuple[int, int]]:
        names = [[f"stage{n}" for n in range(1, count + 1)] for count in (student, teacher)]
        return [(int(s[5:]), int(t[5:])) for s, t in by_depth(*names)]

    assert numbers(3, 3) == [(1, 1), (2, 2), (3, 3)]
    assert numbers(3, 5) == [(1, 2), (2, 3), (3, 5)]
    assert numbers(4, 2) == [(2, 1), (4, 2)]
    for student in range(1, 9):
        for teacher in range(1, 9):
            pairs = numbers(student, teacher)
            assert len(pairs) == min(student, teacher)
            assert pairs[-1] == (student, teacher)
            for side in zip(*pairs, strict=True):
                assert sorted(set(side)) == list(side)


def outputs(*sides: int, width: int = 6) -> Outputs:
    maps = {f"stage{n}": torch.zeros(2, 4 * n, side, side) for n, side in enumerate(sides, 1)}
    return Outputs(torch.zeros(2, 3), maps | {"embedding": torch.zeros(2, width)})


def test_pairs_can_be_told_and_mistakes_are_named() -> None:
    student, teacher = outputs(8, 4), outputs(16, 8, 4, 1)
    assert pair_stages(student, teacher, None) == [Pair("stage1", "stage2"), Pair("stage2", "stage4")]
    assert pair_stages(student, teacher, None, pixels=2) == [Pair("stage1", "stage2")]
    assert pair_stages(student, teacher, {"stage2": "stage1"}) == [Pair("stage2", "stage1")]
    assert pair_middle(student, teacher, None) == [Pair("stage1", "stage2")]
    assert pair_last(student, teacher, None) == Pair("stage2", "stage4")
    assert pair_embeddings(student, teacher, None) == Pair("embedding", "embedding")
    with pytest.raises(
        UsageError,
        match=r"tap 'stage9' is not in the student; it has stage1 \(4, 8, 8\), stage2 \(8, 4, 4\), embedding \(6,\)",
    ):
        pair_stages(student, teacher, {"stage9": "stage1"})
    with pytest.raises(UsageError, match="tap 'stage7' is not in the teacher"):
        pair_last(student, teacher, {"stage1": "stage7"})
    with pytest.raises(UsageError, match="give one pair"):
        pair_embeddings(student, teacher, {"stage1": "stage1", "stage2": "stage2"})
    for wrong in ("stage1", ["stage1"], {}):
        with pytest.raises(UsageError, match="must map taps of the student"):
            pair_stages(student, teacher, wrong)  # type: ignore[arg-type]
    flat = Outputs(torch.zeros(2, 3), {"stage1": torch.zeros(2, 5), "embedding": torch.zeros(2, 5)})
    with pytest.raises(UsageError, match=r"maps of at least 2 pixels .* stage1 \(5,\), .* stage4 \(16, 1, 1\)"):
        pair_stages(flat, teacher, None, pixels=2)


def test_features_of_every_layout_become_maps() -> None:
    tokens = torch.arange(2 * 5 * 3.0).view(2, 5, 3)
    folded = as_map(tokens)
    assert folded.shape == (2, 3, 2, 2)
    assert torch.equal(folded[:, :, 0, 1], tokens[:, 2])  # the class token is left out, rows come first
    last = torch.randn(2, 4, 4, 6)
    assert torch.equal(as_map(last), last.permute(0, 3, 1, 2))
    first = torch.randn(2, 6, 4, 4)
    assert as_map(first) is first
    assert as_map(torch.randn(2, 4, 4, 4)).shape == (2, 4, 4, 4)
    assert as_map(torch.randn(2, 7)).shape == (2, 7, 1, 1)
    assert not is_map(torch.randn(2, 7))
    assert not is_map(torch.randn(2, 24, 3))  # neither 24 nor 23 … 19 is a square
    assert as_map(torch.randn(2, 24, 3)).shape == (2, 3, 1, 1)
    torch.testing.assert_close(as_vector(last), last.mean(dim=(1, 2)))


@pytest.mark.parametrize("size", [(8, 8), (4, 4), (3, 3), (1, 1), (16, 16)])
def test_resizing_keeps_a_constant_and_the_mean(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, 8, 8)
    assert resized(maps, size).shape == (2, 3, *size)
    torch.testing.assert_close(resized(torch.full((1, 1, 8, 8), 2.5), size), torch.full((1, 1, *size), 2.5))
    if 8 % size[0] == 0:
        torch.testing.assert_close(resized(maps, size).mean(dim=(2, 3)), maps.mean(dim=(2, 3)))


def test_a_regressor_fits_any_feature_to_any_other() -> None:
    features = [torch.randn(2, 4, 8, 8), torch.randn(2, 3, 3, 5), torch.randn(2, 17, 6), torch.randn(2, 7)]
    for student in features:
        for teacher in features:
            for hidden in (0, 2):
                made = Regressor(student, teacher, hidden)(student)
                assert made.shape == as_map(teacher).shape
