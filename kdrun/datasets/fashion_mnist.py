"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, 1708.07747): 28x28 grey, gzipped IDX in FashionMNIST/raw."""

from __future__ import annotations

from pathlib import Path

from kdrun.datasets.files import Known, locate
from kdrun.datasets.idx import read_images
from kdrun.datasets.raw import Raw

MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
DIGESTS = {  # the published MD5 sums
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def read(folder: Path, verify: bool) -> Raw:
    def file(name: str) -> Path:
        return locate(folder, [Known(f"FashionMNIST/raw/{name}", (DIGESTS[name],), f"{MIRROR}/{name}")], verify)

    return Raw(
        CLASSES,
        train=read_images(file("train-images-idx3-ubyte.gz"), file("train-labels-idx1-ubyte.gz"), 10),
        test=read_images(file("t10k-images-idx3-ubyte.gz"), file("t10k-labels-idx1-ubyte.gz"), 10),
    )
