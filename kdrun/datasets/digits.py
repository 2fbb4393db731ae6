"""Optical recognition of handwritten digits (Alpaydin, Kaynak 1998), bundled with scikit-learn: 1,797 images, 8x8."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from kdrun.datasets.raw import Labelled, Raw


def read(folder: Path, verify: bool) -> Raw:
    rows = torch.from_numpy(_rows())
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
