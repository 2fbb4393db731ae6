"""Splits: stratified, disjoint, complete, and each depending on its own seed and nothing else."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from kdrun.datasets import split as module
from kdrun.datasets.raw import Files, Labelled, Raw
from kdrun.datasets.split import Data, fingerprint, split, stratified
from kdrun.errors import UsageError
from tests.conftest import mutated

SIZES = [101, 60, 39]  # uneven, so that stratification has something to do


def labelled(sizes: list[int], seed: int = 0) -> Labelled:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    targets = targets[torch.randperm(len(targets), generator=generator)]
    return Labelled(torch.randint(0, 256, (len(targets), 1, 4, 4), dtype=torch.uint8, generator=generator), targets)


def raw(test: bool = False, validation: bool = False) -> Raw:
    return Raw(
        ("a", "b", "c"),
        labelled(SIZES),
        test=labelled([20, 20, 20], 1) if test else None,
        validation=labelled([9, 8, 7], 2) if validation else None,
    )


def cut(data: Raw, validation: float = 0.1, split_seed: int = 0, limit: int | None = None) -> Data:
    return split(data, validation, split_seed, limit)


def rows(part: module.Split | None) -> list[int]:
    assert part is not None
    return part.index.tolist()


def per_class(targets: Tensor, classes: int) -> list[int]:
    return torch.bincount(targets, minlength=classes).tolist()


def test_each_class_has_its_share_within_one_sample_and_the_total_is_exact() -> None:
    chance = random.Random(0)
    for _ in range(100):
        sizes = [chance.choice([0, 1, 2, chance.randint(3, 40)]) for _ in range(chance.randint(1, 8))] + [1]
        share, seed = chance.choice([0, 1, chance.random()]), chance.randrange(2**32)
        targets = labelled(sizes).targets
        taken = stratified(targets, torch.arange(len(targets)), seed, share=share)
        assert int(taken.sum()) == round(share * len(targets))
        for had, got in zip(sizes, per_class(targets[taken], len(sizes)), strict=True):
            assert abs(got - had * round(share * len(targets)) / len(targets)) < 1


def test_a_subset_by_chance_alone_would_be_noticed() -> None:
    targets = labelled(SIZES).targets
    unstratified = module.hash32(torch.arange(200), 0).argsort().argsort() < 20
    got = per_class(targets[unstratified], 3)
    assert max(abs(g - had * 20 / 200) for g, had in zip(got, SIZES, strict=True)) >= 1


def test_membership_is_decided_by_the_sample_number_not_by_the_position() -> None:
    targets, order = labelled(SIZES).targets, torch.randperm(200)
    ascending = stratified(targets, torch.arange(200), 5, share=0.3)
    assert torch.equal(stratified(targets, order, 5, share=0.3), ascending[order])


@pytest.mark.parametrize("validation", [0.1, 0.37])
def test_without_official_splits_the_three_are_disjoint_and_complete(validation: float) -> None:
    data = cut(raw(), validation)
    assert sorted(rows(data.train) + rows(data.validation) + rows(data.test)) == list(range(200))
    assert len(data.test) == 40
    assert data.validation is not None
    assert len(data.validation) == round(validation * 160)
    for part in (data.train, data.validation, data.test):
        for had, got in zip(SIZES, per_class(part.targets[part.index], 3), strict=True):
            assert abs(got - had * len(part) / 200) <= 1.5  # its own rounding, and that of what was left for it


def test_official_splits_are_used_whole_and_as_they_are() -> None:
    data = cut(raw(test=True, validation=True), validation=0.1)
    assert data.validation is not None
    assert (rows(data.train), rows(data.validation), rows(data.test)) == (
        list(range(200)),
        list(range(24)),
        list(range(60)),
    )
    given_test = raw(test=True).test
    assert given_test is not None
    assert torch.equal(data.test.pixels, given_test.pixels)


def test_no_validation_share_gives_no_validation_split() -> None:
    data = cut(raw(test=True), validation=0)
    assert data.validation is None
    assert rows(data.train) == list(range(200))


def test_every_split_is_in_ascending_order() -> None:
    data = cut(raw(), limit=50)
    for part in (data.train, data.validation, data.test):
        assert rows(part) == sorted(rows(part))


def test_the_split_seed_moves_validation_but_never_the_test_split() -> None:
    one, other = cut(raw(), split_seed=0), cut(raw(), split_seed=1)
    assert rows(one.test) == rows(other.test)
    assert rows(one.validation) != rows(other.validation)
    assert rows(one.validation) == rows(cut(raw(), split_seed=0).validation)


def test_a_test_split_that_follows_the_seed_would_be_noticed() -> None:
    wrong = mutated(module, "index, TEST_SEED, share=TEST_SHARE", "index, split_seed, share=TEST_SHARE")
    assert wrong.split(raw(), 0.1, 0, None).test.index.tolist() != wrong.split(raw(), 0.1, 1, None).test.index.tolist()


@pytest.mark.parametrize("test", [False, True])
def test_limit_shrinks_the_training_split_only_and_keeps_it_stratified(test: bool) -> None:
    whole, few = cut(raw(test)), cut(raw(test), limit=30)
    assert rows(few.validation) == rows(whole.validation)
    assert rows(few.test) == rows(whole.test)
    assert len(few.train) == 30
    assert set(rows(few.train)) < set(rows(whole.train))
    for all_of, got in zip(per_class(whole.train.targets[whole.train.index], 3), counts(few), strict=True):
        assert abs(got - all_of * 30 / len(whole.train)) < 1


def counts(data: Data) -> list[int]:
    return per_class(data.train.targets[data.train.index], 3)


def test_a_limit_of_everything_keeps_everything_and_more_is_refused() -> None:
    assert rows(cut(raw(), limit=144).train) == rows(cut(raw()).train)
    with pytest.raises(UsageError, match=r"limit=145 is more than the 144 training samples"):
        cut(raw(), limit=145)


@pytest.mark.parametrize(("test", "sizes"), [(True, [2, 1, 1]), (False, [1, 1])])
def test_a_split_that_would_be_empty_is_refused(test: bool, sizes: list[int]) -> None:
    """A tenth of four samples rounds to nothing, and so does a fifth of two: there would be no number to choose by."""
    with pytest.raises(UsageError):
        cut(replace(raw(test), train=labelled(sizes)), validation=0.1)


@pytest.mark.parametrize(("wrong", "told"), [(3, "label 3 of row 4 is out of range"), (-1, "label -1")])
@pytest.mark.parametrize("where", ["train", "test", "validation"])
def test_a_label_out_of_range_is_refused_in_every_split(where: str, wrong: int, told: str) -> None:
    data = raw(test=True, validation=True)
    part = getattr(data, where)
    part.targets[4] = wrong
    with pytest.raises(UsageError, match=told):
        cut(data)


def test_more_images_than_labels_and_nothing_at_all_are_refused() -> None:
    data = raw()
    with pytest.raises(UsageError, match="200 images and 199 labels"):
        cut(replace(data, train=Labelled(data.train.pixels, data.train.targets[1:])))
    with pytest.raises(UsageError, match="0 images and 0 labels"):
        cut(replace(data, train=Labelled(data.train.pixels[:0], data.train.targets[:0])))


@pytest.mark.parametrize("where", ["train", "test", "validation"])
def test_the_fingerprint_changes_with_one_pixel_or_one_label(where: str) -> None:
    before = fingerprint(raw(test=True, validation=True))
    assert fingerprint(raw(test=True, validation=True)) == before == cut(raw(test=True, validation=True)).fingerprint
    pixel, label = raw(test=True, validation=True), raw(test=True, validation=True)
    getattr(pixel, where).pixels[3, 0, 2, 1] ^= 1
    getattr(label, where).targets[5] = (getattr(label, where).targets[5] + 1) % 3
    assert len({before, fingerprint(pixel), fingerprint(label)}) == 3


def test_the_fingerprint_of_files_changes_with_their_size_and_how_they_are_cut(tmp_path: Path) -> None:
    file = tmp_path / "a.png"

    def of(content: str, resize: int, size: int) -> str:
        file.write_text(content)
        return fingerprint(Raw(("a",), Labelled(Files([file], resize, size), torch.tensor([0]))))

    assert of("a", 8, 8) == of("b", 8, 8), "their content is not read"
    assert len({of("a", 8, 8), of("aa", 8, 8), of("a", 9, 8), of("a", 8, 7)}) == 4


def test_the_fingerprint_changes_with_class_names_shape_and_role() -> None:
    data = raw(test=True)
    flattened = Labelled(data.train.pixels.view(-1, 1, 2, 8), data.train.targets)
    others = [replace(data, classes=("a", "b", "d")), replace(data, train=flattened)]
    others.append(replace(data, test=None, validation=data.test))
    assert len({fingerprint(one) for one in [data, *others]}) == 4


def test_the_fingerprint_does_not_depend_on_the_split() -> None:
    assert cut(raw(), 0.1, 0, None).fingerprint == cut(raw(), 0.3, 7, 20).fingerprint


def test_the_fingerprint_of_pictures_on_disk_changes_with_names_and_sizes(tmp_path: Path) -> None:
    def of(*names: str) -> str:
        paths = [tmp_path / name for name in names]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                Image.new("RGB", (4, 4)).save(path)
        return fingerprint(Raw(("a", "b"), Labelled(Files(paths, 4, 4), torch.tensor([0, 1]))))

    before = of("a/1.png", "b/1.png")
    assert of("a/1.png", "b/1.png") == before
    assert of("a/1.png", "b/2.png") != before
    Image.new("RGB", (40, 40)).save(tmp_path / "b" / "1.png")
    assert of("a/1.png", "b/1.png") != before
