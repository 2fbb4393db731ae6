"""USPS zip code digits (Le Cun et al. 1990): 16x16 grey, LIBSVM text in bzip2, in usps."""

from __future__ import annotations

import bz2
import io
from pathlib import Path

import torch

from kdrun.datasets.files import Known, inflated, locate
from kdrun.datasets.raw import Labelled, Raw, check_labels
from kdrun.errors import UsageError

MOST = 40_000_000  # bytes; the training file has 29 million
MIRROR = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass"
# the MD5 of the LIBSVM download, and the sha256 of the same values from "The Elements of Statistical Learning"
DIGESTS = {
    "usps.bz2": (
        "ec16c51db3855ca6c91edd34d0e9b197",
        "96e2f816c35b13277ae963486f6611c39105f9dd63f5f25ff3ef8dfbed3b5346",
    ),
    "usps.t.bz2": (
        "8ea070ee2aca1ac39742fdd1ef5ed118",
        "76e5b97104c5a6160f6cb2fd9d0746bb11c3515ec029702aeb1f71506a5f03e5",
    ),
}


def read(folder: Path, verify: bool) -> Raw:
    from sklearn.datasets import load_svmlight_file  # scikit-learn costs a second to import

    def split(name: str) -> Labelled:
        path = locate(folder, [Known(f"usps/{name}", DIGESTS[name], f"{MIRROR}/{name}")], verify)
        try:
            with bz2.open(path) as file:
                text = io.BytesIO(inflated(path, file, MOST))
            values, labels = load_svmlight_file(text, n_features=256)  # values in [-1, 1], labels 1 to 10
        except (ValueError, OSError, EOFError) as error:
            raise UsageError(f"{path} is not a LIBSVM file of 256 values a row, or is cut short: {error}") from error
        pixels, targets = torch.from_numpy(values.toarray()), torch.from_numpy(labels).long() - 1
        wrong = torch.nonzero(~(pixels.abs() <= 1).all(dim=1)).flatten()
        if len(wrong):
            raise UsageError(f"{path}: row {int(wrong[0])} has pixels that are not numbers between -1 and 1")
        check_labels(targets, 10, str(path))
        return Labelled(pixels.add(1).mul(127.5).round().to(torch.uint8).view(-1, 1, 16, 16), targets)

    return Raw(tuple(str(digit) for digit in range(10)), train=split("usps.bz2"), test=split("usps.t.bz2"))
