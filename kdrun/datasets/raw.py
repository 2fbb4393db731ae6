"""What a data set's reader gives: pixels or files, labels, class names, and the official splits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdrun.errors import KdrunError, UsageError


class Files:
    """Images on disk, decoded when asked for: `files[rows]` is uint8 `(B, 3, size, size)`, like a tensor's rows."""

    def __init__(self, paths: Sequence[Path], resize: int, size: int) -> None:
        self.paths, self.resize, self.size = list(paths), resize, size
        self.shape = (len(self.paths), 3, size, size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.stack([self.decode(row) for row in rows.tolist()])

    def decode(self, row: int) -> Tensor:
        """One image: shorter side scaled to `resize`, centre cut out. Raises `KdrunError` naming a broken file."""
        try:
            with open_image(self.paths[row]) as image:
                if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
                    raise ValueError("it has pixels that are not finite numbers")
                return centre(image, self.resize, self.size)
        except Exception as error:  # a damaged picture raises whatever its decoder stumbles over
            reason = " ".join(str(error).split())
            raise KdrunError(f"image {self.paths[row]} (row {row}) cannot be read: {reason}") from error

    def states(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Each file and what the system says of it. Raises `KdrunError` naming one that is not there."""
        for row, path in enumerate(self.paths):
            try:
                yield path, path.stat()
            except OSError as error:
                raise KdrunError(f"image {path} (row {row}) cannot be read: {error.strerror}") from error

    def decode_all(self, pixels: Tensor, threads: int = 4) -> Tensor:
        """Every image, written into `pixels` `(N, 3, size, size)` uint8."""
        with ThreadPoolExecutor(threads) as pool:
            for row, image in enumerate(pool.map(self.decode, range(len(self)))):
                pixels[row] = image
        return pixels


FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # not EPS, which PIL has Ghostscript run
MOST_PIXELS = 64_000_000


def open_image(path: str | Path) -> Image.Image:
    """A picture, not yet decoded. Raises `OSError` or `ValueError` for what is no file, no picture or far too big."""
    if not Path(path).is_file():
        raise ValueError("it is not a regular file")  # a pipe would wait for a writer
    image = Image.open(path, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise ValueError(f"it has {image.width} x {image.height} pixels; at most {MOST_PIXELS:,} are decoded")
    return image


def centre(image: Image.Image, resize: int, size: int) -> Tensor:
    """A PIL image as uint8 `(3, size, size)`: shorter side to `resize` pixels (bilinear), then the centre."""
    image = image.convert("RGB")
    scale = max(resize, size) / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    pixels = np.array(image.crop((left, top, left + size, top + size)))
    return torch.from_numpy(pixels).permute(2, 0, 1)


Pixels = Tensor | Files


@dataclass(frozen=True)
class Labelled:
    """N images, uint8 `(N, C, H, W)` or files, and their classes `(N,)` int64."""

    pixels: Pixels
    targets: Tensor


@dataclass(frozen=True)
class Raw:
    """A data set as it was published. `test` is None where there is no official one, `validation` mostly.

    `known` is False where no checksums were published that its bytes could be held against: anybody's own images.
    """

    classes: tuple[str, ...]
    train: Labelled
    test: Labelled | None = None
    validation: Labelled | None = None
    known: bool = True


def check_labels(targets: Tensor, classes: int, name: str) -> None:
    """Raise `UsageError`, naming the first, when a label is not a class number. `name` says where they are from."""
    wrong = torch.nonzero((targets < 0) | (targets >= classes)).flatten()
    if len(wrong):
        row = int(wrong[0])
        raise UsageError(
            f"{name}: label {int(targets[row])} of row {row} is out of range; allowed: 0 to {classes - 1} "
            f"({len(wrong)} of {len(targets)} labels are wrong)"
        )
