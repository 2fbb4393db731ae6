"""Optical recognition of handwritten digits (Alpaydin, Kaynak 1998), bundled with scikit-learn: 1,797 images, 8x8."""

from __future__ import annotations

from pathlib import Path

import torch

from kdrun.datasets.raw import Labelled, Raw


def read(folder: Path, verify: bool) -> Raw:
    from sklearn.datasets import load_digits  # scikit-learn costs a second to import

    digits = load_digits()
    pixels = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)  # grey levels 0 to 16
    return Raw(tuple(str(digit) for digit in range(10)), Labelled(pixels, torch.from_numpy(digits.target).long()))
