"""The integer hash behind every random choice: the published function, uniform, and blind to order and company."""

from __future__ import annotations

import pytest
import torch

from kdrun.datasets import hashing
from kdrun.datasets.hashing import Draw, hash32
from tests.conftest import mutated

EVERY = torch.arange(20_000)


def finaliser(x: int) -> int:
    """MurmurHash3's fmix32, as published, on Python integers."""
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)


def reference(index: int, *keys: int) -> int:
    state = finaliser(index % 2**32)
    for key in keys:
        state = finaliser((state + 0x9E3779B9 + key % 2**32) % 2**32)
    return state


INDICES = [0, 1, 2, 59_999, 2**31 - 1, 2**31, 2**32 - 1]
KEYS = [(), (0,), (1, 2, 3), (2**32 - 1,), (2**40 + 7, 5)]


@pytest.mark.parametrize("keys", KEYS)
def test_the_hash_is_the_murmur3_finaliser_chained_over_the_keys(keys: tuple[int, ...]) -> None:
    assert hash32(torch.tensor(INDICES), *keys).tolist() == [reference(index, *keys) for index in INDICES]


def test_the_finaliser_gives_the_values_known_from_elsewhere() -> None:
    assert hash32(torch.tensor([0, 1])).tolist() == [0, 0x514E28B7]


def test_a_wrong_shift_would_be_noticed() -> None:
    wrong = mutated(hashing, "x >> 13", "x >> 12")
    assert wrong.hash32(torch.tensor(INDICES)).tolist() != [reference(index) for index in INDICES]


def test_numbers_are_uniform() -> None:
    drawn = Draw(0, 0, EVERY)("any")
    assert drawn.dtype == torch.float32
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = torch.histc(drawn, bins=20, min=0, max=1)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()  # 19 degrees of freedom: 99.99 % below 50
    assert chi_square < 50


def test_even_the_largest_hash_stays_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_mix", lambda state: torch.full_like(state, 2**32 - 1))
    draw = Draw(0, 0, torch.arange(1))
    assert draw("any").item() < 1
    assert draw.below("any", 10).item() == 9


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 60_000])
def test_below_stays_in_its_range_and_reaches_all_of_it(limit: int) -> None:
    drawn = Draw(3, 1, EVERY).below("any", limit)
    assert drawn.dtype == torch.int64
    assert drawn.min() >= 0
    assert drawn.max() < limit
    if limit <= 10:
        shares = torch.bincount(drawn, minlength=limit) / len(EVERY)
        assert torch.allclose(shares, torch.full((limit,), 1 / limit), atol=0.02)
    else:
        assert drawn.max() > 0.99 * limit


def streams() -> dict[str, torch.Tensor]:
    base = Draw(0, 0, EVERY)
    return {
        "name": base("a"),
        "other name": base("b"),
        "within": base.within("crop")("a"),
        "within another": base.within("flip")("a"),
        "other view": Draw(0, 1, EVERY)("a"),
        "other seed": Draw(1, 0, EVERY)("a"),
        "next sample": Draw(0, 0, EVERY + 1)("a"),
    }


def test_names_augmentations_views_seeds_and_samples_are_independent_streams() -> None:
    table = torch.stack(list(streams().values()))
    correlations = torch.corrcoef(table).fill_diagonal_(0)
    assert correlations.abs().max() < 0.04  # five standard errors of 1 / sqrt(20 000)


def test_a_samples_number_depends_on_nothing_but_the_sample() -> None:
    order = torch.randperm(len(EVERY))
    everyone = Draw(5, 2, EVERY)("any")
    assert torch.equal(Draw(5, 2, EVERY[order])("any"), everyone[order])
    assert torch.equal(Draw(5, 2, torch.tensor([17]))("any"), everyone[17:18])


def test_drawing_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    Draw(0, 0, EVERY)("any")
    assert torch.equal(torch.get_rng_state(), before)
