"""Optical recognition of handwritten digits (Alpaydin, Kaynak 1998), bundled with scikit-learn: 1,797 images, 8x8."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import torch

from kdrun.datasets.raw import Labelled, Raw
from kdrun.errors import UsageError

PUBLISHED = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"  # sha256 of the numbers as bytes


def read(folder: Path, verify: bool) -> Raw:
    """Raises `UsageError` when scikit-learn has other digits than the published ones (unless `verify` is off)."""
    numbers = _rows()
    got = hashlib.sha256(numbers.astype(np.uint8).tobytes()).hexdigest()
    if verify and got != PUBLISHED:
        raise UsageError(
            f"scikit-learn's digits are not the published ones (sha256 {got}); install scikit-learn as constraints.txt "
            "has it, or set dataset.verify=false to use them"
        )
    rows = torch.from_numpy(numbers)
    levels, labels = rows[:, :64].view(-1, 1, 8, 8), rows[:, 64].long()
    pixels = (levels * (255 / 16)).round().to(torch.uint8)  # grey levels 0 to 16
    return Raw(tuple(str(digit) for digit in range(10)), Labelled(pixels, labels))


def _rows() -> np.ndarray:
    """`(1797, 65)`: the pixels of each image and its class, from scikit-learn's file; to import it costs a second."""
    found = importlib.util.find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    file = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # should the file ever lie elsewhere

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
