"""Views and batches: pure functions of their seeds, whatever the order, the company or the number of workers."""

from __future__ import annotations

import gc
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from kdrun.datasets import loader as loader_module
from kdrun.datasets.augment import crop, cutmix, flip, mixup
from kdrun.datasets.loader import PlainLoader, TrainLoader, chunks
from kdrun.datasets.raw import Files
from kdrun.datasets.split import Split
from kdrun.datasets.views import Augmentation, Views
from kdrun.errors import KdrunError
from kdrun.types import Batch
from tests.conftest import mutated

CLASSES = 3
COUNT = 40
ROWS = torch.arange(0, COUNT, 2)  # the training split: every other row, so that rows and positions differ
CROP: Augmentation = ("crop", crop, {"padding": 3})
FLIP: Augmentation = ("flip", flip, {"probability": 0.5})
MIXUP: Augmentation = ("mixup", mixup, {"alpha": 1.0})
CUTMIX: Augmentation = ("cutmix", cutmix, {"alpha": 1.0})


def training(targets: Tensor | None = None) -> Split:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (COUNT, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Split(pixels, torch.arange(COUNT) % CLASSES if targets is None else targets, ROWS)


def seen(views: Views, index: Tensor, view: int = 0) -> tuple[Tensor, Tensor]:
    return views(index, views.train.pixels[index], view)


def build(*augmentations: Augmentation, seed: int = 0) -> Views:
    return Views(training(), CLASSES, seed, augmentations)


def flat(batches: list[Batch]) -> list[int]:
    return [int(row) for batch in batches for row in batch.index]


def train_loader(size: int = 8, seed: int = 0, balance: bool = False, split: Split | None = None) -> TrainLoader:
    split = split or training()
    return TrainLoader(split, Views(split, CLASSES, 0, [CROP]), size, seed=seed, balance=balance)


# ----------------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("augmentations", [[CROP, FLIP], [CROP, MIXUP], [CUTMIX]])
def test_a_view_is_a_function_of_seed_view_and_sample_alone(augmentations: list[Augmentation]) -> None:
    views = build(*augmentations)
    images, targets = seen(views, ROWS)
    torch.rand(7)  # other draws in between
    seen(views, ROWS, view=1)
    shuffled = torch.randperm(len(ROWS))
    again, same_targets = seen(build(*augmentations), ROWS[shuffled])
    assert torch.equal(again, images[shuffled])
    assert torch.equal(same_targets, targets[shuffled])
    for position in range(len(ROWS)):
        alone, target = seen(views, ROWS[position : position + 1])
        assert torch.equal(alone[0], images[position])
        assert torch.equal(target[0], targets[position])


@pytest.mark.parametrize("augmentations", [[CROP], [FLIP], [MIXUP], [CUTMIX]])
def test_another_view_number_or_seed_gives_another_view(augmentations: list[Augmentation]) -> None:
    first, _ = seen(build(*augmentations), ROWS, view=0)
    assert not torch.equal(seen(build(*augmentations), ROWS, view=1)[0], first)
    assert not torch.equal(seen(build(*augmentations, seed=1), ROWS, view=0)[0], first)


def test_a_view_that_forgets_its_number_would_be_noticed() -> None:
    from kdrun.datasets import views as module

    wrong = mutated(module, "Draw(self.seed, view, index)", "Draw(self.seed, 0, index)").Views
    forgetful = wrong(training(), CLASSES, 0, [CROP])
    assert torch.equal(seen(forgetful, ROWS, view=0)[0], seen(forgetful, ROWS, view=1)[0])


def test_without_augmentation_a_view_is_the_image_and_its_class() -> None:
    images, targets = seen(build(), ROWS, view=5)
    assert torch.equal(images, training().pixels[ROWS])
    assert torch.equal(targets, ROWS % CLASSES)


def test_augmentations_of_one_image_apply_in_the_order_given() -> None:
    one, _ = seen(build(CROP, FLIP), ROWS)
    other, _ = seen(build(FLIP, CROP), ROWS)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("augmentation", [MIXUP, CUTMIX])
def test_soft_targets_are_two_classes_in_shares_that_sum_to_one(augmentation: Augmentation) -> None:
    _, targets = seen(build(augmentation), ROWS)
    assert targets.shape == (len(ROWS), CLASSES)
    assert torch.allclose(targets.sum(dim=1), torch.ones(len(ROWS)))
    assert targets.min() >= 0
    assert ((targets > 0).sum(dim=1) <= 2).all()
    assert ((targets > 0).sum(dim=1) == 2).any()
    assert (targets[torch.arange(len(ROWS)), ROWS % CLASSES] > 0).all()  # its own class is always among them


def partners(batch: Tensor, view: int) -> set[int]:
    """Whose picture was mixed in: every picture is one grey level of its own, and the own share is nothing."""
    grey = torch.arange(COUNT, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    views = Views(Split(grey, torch.zeros(COUNT, dtype=torch.long), ROWS), CLASSES, 0, [("swap", Swap(), {})])  # type: ignore[list-item]
    images, _ = views(batch, grey[batch], view)
    return {int(image[0, 0, 0]) for image in images}


class Swap:
    @staticmethod
    def mix(images: Tensor, partners: Tensor, draw: object) -> tuple[Tensor, Tensor]:
        return partners, torch.zeros(len(images))


def test_mixing_takes_partners_from_the_whole_training_split_and_from_nowhere_else() -> None:
    batch = ROWS[:2]
    found = set().union(*(partners(batch, view) for view in range(200)))
    assert found == set(ROWS.tolist())


def test_the_partner_is_seen_in_its_own_view() -> None:
    alone, _ = seen(build(CROP), ROWS)
    swapped, _ = seen(Views(training(), CLASSES, 0, [CROP, ("swap", Swap(), {})]), ROWS)  # type: ignore[list-item]
    own = {view.numpy().tobytes() for view in alone}
    assert all(view.numpy().tobytes() in own for view in swapped)


# --------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("size", [1, 3, 8, 20])
def test_an_epoch_has_every_training_sample_once(size: int) -> None:
    loader = train_loader(size)
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader)
    assert sorted(flat(batches)) == ROWS.tolist()
    assert flat(batches) != ROWS.tolist()


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    order = flat(list(train_loader(seed=3).epoch(4)))
    loader = train_loader(size=5, seed=3)
    list(loader.epoch(0))
    torch.rand(3)
    assert flat(list(loader.epoch(4))) == order
    assert flat(list(loader.epoch(5))) != order
    assert flat(list(train_loader(seed=4).epoch(4))) != order


def test_the_epoch_is_the_number_of_the_view() -> None:
    loader = train_loader()
    for batch in loader.epoch(2):
        wanted, targets = seen(loader.views, batch.index, view=2)
        assert torch.equal(batch.inputs, wanted)
        assert torch.equal(batch.targets, targets)


@pytest.mark.parametrize(
    ("count", "size", "sizes"), [(9, 4, [4, 5]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 2])]
)
def test_a_last_batch_of_one_joins_the_one_before(count: int, size: int, sizes: list[int]) -> None:
    parts = chunks(torch.arange(count), size)
    assert [len(part) for part in parts] == sizes
    assert torch.cat(parts).tolist() == list(range(count))


def test_balance_draws_the_classes_evenly() -> None:
    targets = torch.zeros(COUNT, dtype=torch.long)
    targets[2], targets[4], targets[6] = 1, 2, 2  # 17, 1 and 2 of the training split
    loader = train_loader(balance=True, split=training(targets))
    for epoch in range(3):
        rows = torch.tensor(flat(list(loader.epoch(epoch))))
        assert torch.bincount(targets[rows]).tolist() == [6, 6, 6]
        assert len(rows[targets[rows] == 0].unique()) == 6  # none twice before all were used once
        assert set(rows.tolist()) <= set(ROWS.tolist())
        assert (rows == 4).sum() == (rows == 6).sum() == 3
    assert flat(list(loader.epoch(0))) != flat(list(loader.epoch(1)))


@pytest.mark.parametrize("size", [3, 7, 64])
def test_evaluation_reads_in_ascending_order_without_augmentation(size: int) -> None:
    split = training()
    loader = PlainLoader(split, size)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert flat(batches) == ROWS.tolist()
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), split.pixels[ROWS])
    assert torch.equal(torch.cat([batch.targets for batch in batches]), ROWS % CLASSES)


# ----------------------------------------------------------------------------------------------- streamed pictures


@pytest.fixture
def streamed(tmp_path: Path) -> Split:
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(11)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (6, 9, 3), dtype=np.uint8)).save(path)
    return Split(Files(paths, resize=6, size=6), torch.arange(11) % CLASSES, torch.arange(11))


@pytest.mark.parametrize("mixing", [[], [MIXUP]])
def test_streamed_batches_are_the_same_with_any_number_of_workers(streamed: Split, mixing: list[Augmentation]) -> None:
    views = Views(streamed, CLASSES, 0, [CROP, *mixing])
    alone, helped = (list(TrainLoader(streamed, views, 4, seed=0, workers=workers).epoch(1)) for workers in (0, 2))
    assert len(alone) == len(helped) == 3
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


def test_streamed_batches_are_those_of_the_same_pictures_in_memory(streamed: Split) -> None:
    assert isinstance(streamed.pixels, Files)
    decoded = Split(
        streamed.pixels.decode_all(torch.empty(streamed.pixels.shape, dtype=torch.uint8)),
        streamed.targets,
        streamed.index,
    )
    for one, other in zip(PlainLoader(streamed, 4), PlainLoader(decoded, 4), strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


def test_streamed_pictures_mix_within_the_batch(streamed: Split) -> None:
    views = Views(streamed, CLASSES, 0, [("swap", Swap(), {})])  # type: ignore[list-item]
    index = torch.tensor([7, 2, 5])
    images, targets = views(index, streamed.pixels[index], 0)
    assert torch.equal(images, streamed.pixels[torch.tensor([5, 7, 2])])
    assert targets.argmax(dim=1).tolist() == [5 % CLASSES, 7 % CLASSES, 2 % CLASSES]


@pytest.mark.parametrize("workers", [0, 1])
def test_streaming_leaves_the_global_random_state_alone(streamed: Split, workers: int) -> None:
    """Otherwise dropout would depend on whether the data fit in memory and on how often there was an evaluation."""
    before = torch.get_rng_state()
    list(PlainLoader(streamed, 4, workers))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_one_line_that_names_it(streamed: Split, workers: int) -> None:
    assert isinstance(streamed.pixels, Files)
    broken = streamed.pixels.paths[6]
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(KdrunError) as caught:
        list(PlainLoader(streamed, 4, workers))
    assert str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()  # a worker that is left to the garbage collector ends 15 s later


def test_workers_left_to_the_garbage_collector_would_be_noticed(streamed: Split) -> None:
    streamed.pixels.paths[6].write_bytes(b"")
    wrong = mutated(loader_module, "if workers:", "if False:")
    with pytest.raises(KdrunError):
        list(wrong.PlainLoader(streamed, 4, 1))
    assert multiprocessing.active_children()
    for left in [one for one in gc.get_objects() if type(one) is _MultiProcessingDataLoaderIter]:
        left._shutdown_workers()


def test_a_shuffle_without_the_epoch_would_be_noticed() -> None:
    wrong = mutated(loader_module, "(self.seed << 20) + epoch", "self.seed")
    split = training()
    loader = wrong.TrainLoader(split, Views(split, CLASSES, 0, []), 8, seed=0)
    assert flat(list(loader.epoch(0))) == flat(list(loader.epoch(1)))
