"""A folder of images with one sub-folder per class, or `train/ val/ test/` folders of that kind."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kdrun.datasets.decoded import decoded
from kdrun.datasets.raw import Files, Labelled, Pixels, Raw
from kdrun.errors import UsageError

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def read(
    folder: Path,
    verify: bool,
    path: str | None,
    resize: int,
    size: int,
    cache: str,
    cache_gb: float,
    workers: int,
    names: tuple[str, ...] = ("train", "val", "test"),
) -> Raw:
    """`names` are the folders looked for; without a `train` folder the whole is the training data."""
    if path is None:
        raise UsageError("dataset=image_folder needs to know which folder: dataset.path=my_images")
    root = folder / Path(path).expanduser()  # an absolute path stays as it is
    if not root.is_dir():
        raise UsageError(
            f"dataset.path={path}: there is no folder {root}; name another with dataset.path= or data_dir="
        )
    parts = {name: root / name for name in names if (root / name).is_dir()}
    if "train" not in parts:
        parts = {"train": root}
    classes = tuple(sorted(child.name for child in parts["train"].iterdir() if child.is_dir()))
    if len(classes) < 2:
        raise UsageError(f"{parts['train']} has {len(classes)} class folders; at least 2 are needed, one per class")
    found = {}
    for name, part in parts.items():
        files, targets = images(part, classes, resize, size)
        found[name] = Labelled(kept(files, cache, cache_gb), targets)
    return Raw(classes, found["train"], test=found.get("test"), validation=found.get("val"), known=False)


def kept(files: Files, cache: str, cache_gb: float) -> Pixels:
    """The images decoded, on disk or in memory, when they are wanted so and fit; else the files, to be streamed."""
    pixels = len(files) * 3 * files.size * files.size
    if cache == "none" or pixels > cache_gb * 2**30:
        return files
    return decoded(files) if cache == "disk" else files.decode_all(torch.empty(files.shape, dtype=torch.uint8))


def images(root: Path, classes: tuple[str, ...], resize: int, size: int) -> tuple[Files, Tensor]:
    """The images below `root` in order of class and name, and their classes."""
    strangers = sorted(child.name for child in root.iterdir() if child.is_dir() and child.name not in classes)
    if strangers:
        raise UsageError(f"{root} has a class {strangers[0]!r} that the training folder does not have")
    paths, targets = [], []
    for number, name in enumerate(classes):
        found = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in ENDINGS)
        if not found:
            raise UsageError(f"class folder {root / name} has no images; endings read: {', '.join(sorted(ENDINGS))}")
        paths += found
        targets += [number] * len(found)
    return Files(paths, resize, size), torch.tensor(targets)
