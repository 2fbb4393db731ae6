"""ImageNet-1k (Russakovsky et al. 2014, 1409.0575): class folders in train/ and val/; val plays the test split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdrun.datasets import image_folder
from kdrun.datasets.raw import Raw
from kdrun.errors import UsageError


def read(
    folder: Path, verify: bool, path: str, resize: int, size: int, cache: str, cache_gb: float, workers: int
) -> Raw:
    """Raises `UsageError` unless there are a thousand classes and a validation folder."""
    # the official test/ folder has no labels, hence no class folders
    raw = image_folder.read(folder, verify, path, resize, size, cache, cache_gb, workers, names=("train", "val"))
    if raw.validation is None or len(raw.classes) != 1000:
        found = f"{len(raw.classes)} classes and {'a' if raw.validation else 'no'} val folder"
        raise UsageError(f"{folder / path} has {found}; ImageNet-1k has 1000 class folders in train/ and in val/")
    return replace(raw, test=raw.validation, validation=None)
