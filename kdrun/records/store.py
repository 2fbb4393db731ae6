"""What teachers answer, kept on disk: for each key a folder, and in it a file per view.

A file is the raw logits `(samples, classes)` of one view, before temperature, in ascending order of the samples, and
ends in the sha256 of what is before it. With many classes it may be the k highest of each (see `kdrun.topk`):
which classes `(samples, k)`, then the values `(samples, k + 1)`. Features `(samples, D)` follow where a loss
reads them. It is memory-mapped, so that all runs of a machine share it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdrun import processes
from kdrun.errors import KdrunError, UsageError, brief
from kdrun.records.files import read_json, unwritable, write, write_json
from kdrun.records.seal import TAIL, is_sealed, sealed
from kdrun.topk import TopK
from kdrun.types import Outputs

FORMAT = 1
LATEST = 2.0**37  # seconds since the epoch: the year 6325, which a file's time may be beyond
VIEW = re.compile(r"view-\d{5,}\.bin")
TYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class View:
    """What a teacher answered for one view of all samples: `view[rows]` is `Outputs`, as of a model."""

    logits: Tensor | TopK
    features: Mapping[str, Tensor]

    def __getitem__(self, rows: Tensor) -> Outputs:
        return Outputs(self.logits[rows], {name: feature[rows] for name, feature in self.features.items()})

    @property
    def tensors(self) -> list[Tensor]:
        """In the order in which a file has them."""
        logits = [self.logits.index, self.logits.values] if isinstance(self.logits, TopK) else [self.logits]
        return [*logits, *self.features.values()]

    @property
    def device(self) -> torch.device:
        return self.tensors[0].device

    def to(self, device: torch.device) -> View:
        return View(self.logits.to(device), {name: feature.to(device) for name, feature in self.features.items()})


@dataclass(frozen=True)
class Store:
    """The outputs of one teacher on one split: `key` names everything that changes them."""

    path: Path
    key: Mapping[str, Any]
    shape: tuple[int, int]  # samples, classes

    @classmethod
    def of(cls, folder: Path, key: Mapping[str, Any], shape: tuple[int, int]) -> Store:
        """Where the outputs with this key are, or would be."""
        return cls(folder / identity(key)[:16], key, shape)

    @property
    def view_bytes(self) -> int:
        """Of one view."""
        return sum(count * kind.itemsize for count, kind in self._parts())

    def file(self, view: int) -> Path:
        return self.path / f"view-{view:05d}.bin"

    def missing(self, views: Sequence[int]) -> list[int]:
        """Those of the views that are not there, or not whole."""
        return [view for view in views if not self.has(self.file(view))]

    def has(self, file: Path) -> bool:
        """Is this file a view as it was written?"""
        return file.is_file() and file.stat().st_size == self.view_bytes + TAIL and is_whole(file)

    def write(self, view: int, outputs: View) -> None:
        """Keep one view's outputs, unless another process has done so meanwhile. Raises `KdrunError` without room.

        No lock is relied on: on a folder that several machines share it may be honoured by none of them.
        """
        tensors, sizes = outputs.tensors, [count for count, _ in self._parts()]
        assert [tensor.numel() for tensor in tensors] == sizes, f"{[t.shape for t in tensors]} is not {self.shape}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.has(self.file(view)):
                self.file(view).unlink(missing_ok=True)  # damaged, if it is there
        except OSError as error:
            raise unwritable(self.path, 0, error) from error
        self._describe()
        kinds = [kind for _, kind in self._parts()]
        content = [t.to(kind).contiguous().cpu().numpy().tobytes() for t, kind in zip(tensors, kinds, strict=True)]
        write(self.file(view), sealed(b"".join(content)), once=True)

    def read(self, view: int) -> View:
        """One view's outputs, mapped: read from disk as they are used."""
        whole = torch.from_file(str(self.file(view)), size=self.view_bytes, dtype=torch.uint8)
        kinds = [kind for _, kind in self._parts()]
        parts = whole.split([count * kind.itemsize for count, kind in self._parts()])
        tensors = [part.view(kind).view(self.shape[0], -1) for part, kind in zip(parts, kinds, strict=True)]
        count = len(tensors) - len(self.key["taps"])
        logits = tensors[0] if count == 1 else TopK(tensors[1], tensors[0], self.shape[1])
        return View(logits, dict(zip(self.key["taps"], tensors[count:], strict=True)))

    def _parts(self) -> list[tuple[int, torch.dtype]]:
        """How many numbers of which type a file has, one part behind another."""
        (samples, classes), k, kind = self.shape, self.key["top_k"], TYPES[self.key["type"]]
        features = [(samples * tap["width"], kind) for tap in self.key["taps"].values()]
        if k is None:
            return [(samples * classes, kind), *features]
        narrow = kind == torch.float16 and classes < 2**15  # what is behind must begin at a multiple of its own width
        return [(samples * k, torch.int16 if narrow else torch.int32), (samples * (k + 1), kind), *features]

    def used(self) -> None:
        """Note that it was, for `prune`."""
        if processes.is_first():
            self._describe()
            os.utime(self.path / "store.json")

    def _describe(self) -> None:
        if not (self.path / "store.json").is_file():
            write_json(self.path / "store.json", {"format": FORMAT, "shape": self.shape, "key": dict(self.key)})


def identity(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True, allow_nan=False).encode()).hexdigest()


def is_whole(file: Path) -> bool:
    """Is the file there, with every byte as it was written?"""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return is_sealed(opened)


def weights_fingerprint(state: Mapping[str, Tensor]) -> str:
    """sha256 of a state dict: names, types, shapes and every byte."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------- kdrun store list, …


@dataclass(frozen=True)
class Kept:
    """A store that exists, as people see it."""

    store: Store
    views: list[Path]
    used: float  # seconds since the epoch

    @property
    def path(self) -> Path:
        return self.store.path

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(view.stat().st_size for view in self.views)


def kept(folder: Path, left_alone: Callable[[str], object] = lambda told: None) -> Iterator[Kept]:
    """All stores in a folder, the least recently used first. `left_alone` is told of each that is none."""
    found = []
    for file in sorted(folder.glob("*/store.json")):
        try:
            found.append(_kept(file))
        except (KdrunError, OSError) as error:
            left_alone(f"left alone: {brief(error, 300)}")
    yield from sorted(found, key=lambda one: one.used)


def _kept(file: Path) -> Kept:
    """A store by its description, which may be anybody's. Raises `KdrunError`."""
    content, folder = read_json(file), file.parent
    try:
        (samples, classes), key = content["shape"], content["key"]
        store = Store(folder, key, (samples, classes))
        named = content["format"] == FORMAT and identity(key)[:16] == folder.name and not folder.is_symlink()
        shown = isinstance(key["spec"]["options"], dict) and all(isinstance(name, str) for name, _ in key["augment"])
        sound = named and shown and isinstance(samples * classes, int) and store.view_bytes > 0
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        sound = False
    if not sound:
        raise KdrunError(f"{file} is not that of a store of this kdrun")
    views = sorted(view for view in folder.glob("view-*.bin") if VIEW.fullmatch(view.name) and not view.is_symlink())
    return Kept(store, [view for view in views if view.is_file()], min(max(file.stat().st_mtime, 0.0), LATEST))


def damaged(kept: Kept) -> list[Path]:
    """Views of a store that are not as they were written."""
    return [view for view in kept.views if not kept.store.has(view)]


def prune(folder: Path, keep_gb: float, left_alone: Callable[[str], object] = lambda told: None) -> list[Kept]:
    """Remove the least recently used stores until what is left has at most `keep_gb`. Returns those removed."""
    if keep_gb < 0:
        raise UsageError(f"keep_gb={keep_gb:g}: must not be negative")
    stores = list(kept(folder, left_alone))
    left = sum(store.size for store in stores)
    removed = []
    for store in stores:
        if left <= keep_gb * 1e9:
            break
        left -= store.size
        shutil.rmtree(store.path)
        removed.append(store)
    return removed
