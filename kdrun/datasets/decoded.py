"""Decoded images kept on disk: a folder of JPEGs is decoded once, and mapped into memory by every run after that."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import PIL
import torch
from torch import Tensor

from kdrun.datasets.files import cache_folder
from kdrun.datasets.raw import Files
from kdrun.errors import KdrunError

log = logging.getLogger("kdrun")


def decoded(files: Files) -> Tensor:
    """Every image, `(N, 3, size, size)` uint8, mapped read-only as far as others are concerned.

    A file that has changed since has another size or time, and with it another place here. What is mapped is hashed
    like any data when it is read, so that a damaged copy is not taken for the same data.
    """
    path = cache_folder() / "decoded" / f"{_key(files)}.bin"
    count = len(files) * 3 * files.size * files.size
    if not path.is_file() or path.stat().st_size != count:
        _decode(files, path, count)
    return torch.from_file(str(path), shared=False, size=count, dtype=torch.uint8).view(files.shape)


def _decode(files: Files, path: Path, count: int) -> None:
    """Into a temporary file whose room is reserved first: a mapped file that finds the disk full ends the process."""
    log.info("images: decoding %s of them, once, into %s (%.2f GB)", f"{len(files):,}", path, count / 1e9)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            _reserve(file.fileno(), count)
        files.decode_all(torch.from_file(str(part), shared=True, size=count, dtype=torch.uint8).view(files.shape))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        told = f"cannot keep {count:,} bytes of decoded images in {path.parent}: {error.strerror}"
        raise KdrunError(f"{told}; free some room, or use dataset.cache=memory or none") from error
    finally:
        part.unlink(missing_ok=True)


def _reserve(file: int, count: int) -> None:
    """Raises `OSError` when there is no room for so many bytes."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, count)
    else:  # not on macOS
        os.truncate(file, count)


def _key(files: Files) -> str:
    digest = hashlib.sha256(f"1 {PIL.__version__} {files.resize} {files.size}\n".encode())
    for path, state in files.states():
        digest.update(f"{path.absolute()} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]
