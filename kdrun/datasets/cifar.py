"""The on-disk format of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): pickles, read by an unpickler that runs no code."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrun.datasets.files import Known, check, fetch, locate
from kdrun.datasets.raw import Labelled, Raw, check_labels
from kdrun.errors import UsageError

ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


MOST = 200_000_000  # bytes of a file; the largest published has 155 million


class ArraysOnly(pickle.Unpickler):
    """Admits arrays, lists, strings and numbers; anything else is refused before it can run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _refuse_large_memo(pickled: bytes) -> None:
    """Raise `ValueError` for a pickle that numbers a value beyond its own size: the reader would reserve so many."""
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument is not None and argument > len(pickled):
            raise ValueError(f"it numbers a value {argument:,}")


def unpickle(path: Path) -> dict[str, Any]:
    """The dictionary in one CIFAR file. Raises `UsageError` for a file that holds anything but plain data."""
    try:
        pickled = path.read_bytes()
        _refuse_large_memo(pickled)
        content = ArraysOnly(io.BytesIO(pickled), encoding="latin1").load()
    except Exception as error:  # a hostile or damaged pickle may raise nearly anything
        raise UsageError(f"{path} is not a CIFAR file: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a CIFAR file: it holds a {type(content).__name__}")
    return content


@dataclass(frozen=True)
class Layout:
    """Where one of the two data sets keeps what: its folder, the published MD5 of each file in it, its archive, the
    file and key of the class names, and the key of the labels."""

    base: str
    digests: Mapping[str, str]
    archive: Known
    names_file: str
    names_key: str
    labels_key: str


def read_cifar(folder: Path, verify: bool, layout: Layout) -> Raw:
    known = {name: Known(f"{layout.base}/{name}", (digest,)) for name, digest in layout.digests.items()}
    if not all((folder / one.path).is_file() for one in known.values()):
        _unpack(folder, layout.archive, [one.path for one in known.values()], verify)
    paths = {name: locate(folder, [one], verify) for name, one in known.items()}
    train = [path for name, path in paths.items() if name.startswith(("train", "data_batch"))]
    test = [path for name, path in paths.items() if name.startswith("test")]
    classes = unpickle(paths[layout.names_file]).get(layout.names_key)
    if not isinstance(classes, list) or not classes:
        raise UsageError(f"{paths[layout.names_file]} is not a CIFAR file: it has no {layout.names_key}")
    label, count = layout.labels_key, len(classes)
    return Raw(tuple(classes), _labelled(train, label, count), _labelled(test, label, count))


def _labelled(paths: Sequence[Path], label: str, classes: int) -> Labelled:
    parts = [_part(path, label, classes) for path in paths]
    return Labelled(torch.cat([pixels for pixels, _ in parts]), torch.cat([targets for _, targets in parts]))


def _part(path: Path, label: str, classes: int) -> tuple[Tensor, Tensor]:
    content = unpickle(path)
    try:
        pixels = np.asarray(content["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        targets = torch.tensor([int(target) for target in content[label]], dtype=torch.int64)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"{path} is not a CIFAR file: {error}") from error
    if len(targets) != len(pixels):
        raise UsageError(f"{path} has {len(pixels)} images and {len(targets)} labels")
    check_labels(targets, classes, str(path))
    return torch.from_numpy(pixels), targets


def _unpack(folder: Path, archive: Known, wanted: Sequence[str], verify: bool) -> None:
    """Copy just the wanted files out of the archive, each under a temporary name first."""
    path = folder / archive.path
    if not path.is_file():
        path = fetch(folder, archive)
    try:
        if verify:
            check(path, archive)  # before anything is unpacked
        _extract(folder, path, wanted)
    except (tarfile.TarError, EOFError, zlib.error, KeyError) as error:
        raise UsageError(
            f"{path} is not the published archive, or is cut short; delete it to fetch it again"
        ) from error


def _extract(folder: Path, path: Path, wanted: Sequence[str]) -> None:
    with tarfile.open(path) as tar:
        for name in wanted:
            member = tar.extractfile(name)
            if member is None:
                raise UsageError(f"{path} has no file {name}")
            if tar.getmember(name).size > MOST:
                raise UsageError(f"{path}: {name} is larger than the {MOST:,} bytes that are read of such a file")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.{os.getpid()}.part")
            part.write_bytes(member.read())
            part.replace(target)
