"""Which samples train, which choose, which test."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrun.datasets.hashing import hash32
from kdrun.datasets.raw import Files, Labelled, Pixels, Raw, check_labels
from kdrun.errors import UsageError

TEST_SHARE = 0.2  # where there is no official test split
TEST_SEED = 20151  # the constant that fixes it


@dataclass(frozen=True)
class Split:
    """Rows `index` `(n,)` of some images and their `targets` `(N,)`; a row's number is the sample's identity."""

    pixels: Pixels
    targets: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: str, room: float = float("inf")) -> Split:
        """With labels and index on the device, and with pixels of at most `room` bytes; files stay files."""
        pixels = self.pixels
        if not isinstance(pixels, Files) and pixels.nbytes <= room:
            pixels = pixels.to(device)
        return Split(pixels, self.targets.to(device), self.index.to(device))


@dataclass(frozen=True)
class Data:
    """A data set ready for use. `validation` is None when nothing is held out. `known` as in `Raw`."""

    train: Split
    validation: Split | None
    test: Split
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    fingerprint: str
    known: bool = True


def split(raw: Raw, validation: float, split_seed: int, limit: int | None) -> Data:
    """Cut a data set up, stratified by class, as a function of the seed alone.

    Without an official test split a fixed 20 % is the test split. `validation` is the share of the remaining training
    data held out, unless there is an official validation split. `limit` keeps that many training samples.
    """
    targets = raw.train.targets
    _check_labels(raw)
    index = torch.arange(len(targets))
    if raw.test is None:
        held = stratified(targets, index, TEST_SEED, share=TEST_SHARE)
        test, index = Split(raw.train.pixels, targets, index[held]), index[~held]
    else:
        test = _whole(raw.test)
    chosen = None if raw.validation is None else _whole(raw.validation)
    if chosen is None and validation > 0:
        held = stratified(targets, index, split_seed, share=validation)
        chosen, index = Split(raw.train.pixels, targets, index[held]), index[~held]
    if limit is not None:
        if limit > len(index):
            raise UsageError(f"dataset.limit={limit} is more than the {len(index)} training samples there are")
        index = index[stratified(targets, index, split_seed, count=limit)]
    train = Split(raw.train.pixels, targets, index)
    for name, part in (("train", train), ("validation", chosen), ("test", test)):
        if part is not None and len(part) == 0:
            raise UsageError(
                f"{len(targets)} samples leave none for the {name} split; use more, or dataset.validation=0"
            )
    channels, height, width = raw.train.pixels.shape[1:]
    return Data(train, chosen, test, raw.classes, (channels, height, width), fingerprint(raw), raw.known)


def stratified(
    targets: Tensor, index: Tensor, seed: int, *, share: float | None = None, count: int | None = None
) -> Tensor:
    """`(n,)` bool over `index`: a subset with the classes in the same proportions, in hash order of the seed.

    The size is `count`, or `share` of all; classes get their share rounded by largest remainder.
    """
    total = len(index)
    count = round((share or 0) * total) if count is None else count
    of_class = targets[index]
    sizes = torch.bincount(of_class)
    exact = sizes.double() * count / total
    quota = exact.floor().long()
    remainder = (exact - quota).argsort(descending=True, stable=True)
    quota[remainder[: count - int(quota.sum())]] += 1
    order = hash32(index, seed).argsort(stable=True)
    taken = torch.zeros(total, dtype=torch.bool)
    for number, wanted in enumerate(quota.tolist()):
        rows = order[of_class[order] == number]
        taken[rows[:wanted]] = True
    return taken


def fingerprint(raw: Raw) -> str:
    """sha256 of class names, labels and pixels; of file names, sizes and cuts where images stay on disk."""
    digest = hashlib.sha256("\n".join(raw.classes).encode())
    for part in (raw.train, raw.validation, raw.test):
        if part is None:
            digest.update(b"none")
            continue
        digest.update(part.targets.numpy().tobytes())
        if isinstance(part.pixels, Files):
            digest.update(f"{part.pixels.resize} {part.pixels.size}\n".encode())
            for path, state in part.pixels.states():
                digest.update(f"{path.parent.name}/{path.name} {state.st_size}\n".encode())
        else:
            digest.update(str(tuple(part.pixels.shape)).encode())
            digest.update(part.pixels.contiguous().numpy().data)
    return digest.hexdigest()


def _whole(part: Labelled) -> Split:
    return Split(part.pixels, part.targets, torch.arange(len(part.targets)))


def _check_labels(raw: Raw) -> None:
    for part in (raw.train, raw.validation, raw.test):
        if part is None:
            continue
        if len(part.targets) != len(part.pixels) or len(part.targets) == 0:
            raise UsageError(f"the data has {len(part.pixels)} images and {len(part.targets)} labels")
        check_labels(part.targets, len(raw.classes), "the data")
