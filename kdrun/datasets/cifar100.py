"""CIFAR-100 (Krizhevsky 2009): 32x32 colour, a hundred fine classes."""

from __future__ import annotations

from pathlib import Path

from kdrun.datasets.cifar import Layout, read_cifar
from kdrun.datasets.files import Known
from kdrun.datasets.raw import Raw

ARCHIVE = Known(
    "cifar-100-python.tar.gz",
    ("eb9058c3a382ffc7106e4002c42a8d85",),
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
)
DIGESTS = {  # the published MD5 sums
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}

LAYOUT = Layout("cifar-100-python", DIGESTS, ARCHIVE, "meta", "fine_label_names", "fine_labels")


def read(folder: Path, verify: bool) -> Raw:
    return read_cifar(folder, verify, LAYOUT)
