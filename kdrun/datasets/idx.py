"""The IDX format of MNIST and its relatives, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdrun.datasets.files import inflated
from kdrun.datasets.raw import Labelled, check_labels
from kdrun.errors import UsageError

MOST = 200_000_000  # bytes; the largest of MNIST's relatives has 47 million


def read_images(images: Path, labels: Path, classes: int = 256) -> Labelled:
    """Grey images `(N, 1, H, W)` uint8 and labels `(N,)`. Raises `UsageError` when the two do not fit each other."""
    pixels, targets = read_idx(images), read_idx(labels).long()
    if pixels.ndim != 3 or targets.ndim != 1:
        shapes = f"{tuple(pixels.shape)} and {tuple(targets.shape)}"
        raise UsageError(f"{images} and {labels} are of shapes {shapes}; images need 3 dimensions, labels 1")
    if len(pixels) != len(targets) or not len(pixels):
        raise UsageError(f"{images} has {len(pixels)} images and {labels} has {len(targets)} labels")
    check_labels(targets, classes, str(labels))
    return Labelled(pixels.unsqueeze(1), targets)


def read_idx(path: Path) -> Tensor:
    """A uint8 tensor of the shape the header states. Raises `UsageError` when the file is something else."""
    try:
        with path.open("rb") as file:
            content = inflated(path, gzip.open(file) if path.suffix == ".gz" else file, MOST)  # noqa: SIM115
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    dimensions = content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 3 else 0  # 8: unsigned bytes
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content, ">i4", dimensions, 4).tolist() if dimensions and len(content) >= start else []
    if not shape or min(shape) < 0 or len(content) != start + math.prod(shape):
        raise UsageError(f"{path} is not an IDX file of unsigned bytes, or is cut short")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy())
