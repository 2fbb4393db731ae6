"""MNIST (LeCun, Cortes, Burges 1998): 28x28 grey digits, plain or gzipped IDX in MNIST/raw."""

from __future__ import annotations

from pathlib import Path

from kdrun.datasets.files import Known, locate
from kdrun.datasets.idx import read_images
from kdrun.datasets.raw import Raw

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist"
DIGESTS = {  # published MD5 of the plain file, published MD5 of the gzipped one
    "train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    "train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", "d53e105ee54ea40749a09fcbcd1e9432"),
    "t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", "9fb629c4189551a2d022fa330f9573f3"),
    "t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", "ec29112dd5afa0611ce80d1b7f02629c"),
}


def read(folder: Path, verify: bool) -> Raw:
    def file(name: str) -> Path:
        plain, zipped = DIGESTS[name]
        both = [
            Known(f"MNIST/raw/{name}", (plain,)),
            Known(f"MNIST/raw/{name}.gz", (zipped,), f"{MIRROR}/{name}.gz"),
        ]
        return locate(folder, both, verify)

    return Raw(
        tuple(str(digit) for digit in range(10)),
        train=read_images(file("train-images-idx3-ubyte"), file("train-labels-idx1-ubyte"), 10),
        test=read_images(file("t10k-images-idx3-ubyte"), file("t10k-labels-idx1-ubyte"), 10),
    )
