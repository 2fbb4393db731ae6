"""CIFAR-10 (Krizhevsky 2009): 32x32 colour, ten classes."""

from __future__ import annotations

from pathlib import Path

from kdrun.datasets.cifar import Layout, read_cifar
from kdrun.datasets.files import Known
from kdrun.datasets.raw import Raw

ARCHIVE = Known(
    "cifar-10-python.tar.gz",
    ("c58f30108f718f92721af3b95e74349a",),
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
DIGESTS = {  # the published MD5 sums
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}

LAYOUT = Layout("cifar-10-batches-py", DIGESTS, ARCHIVE, "batches.meta", "label_names", "labels")


def read(folder: Path, verify: bool) -> Raw:
    return read_cifar(folder, verify, LAYOUT)
