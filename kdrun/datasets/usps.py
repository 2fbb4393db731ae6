"""USPS zip code digits (Le Cun et al. 1990): 16x16 grey, LIBSVM text in bzip2, in usps."""

from __future__ import annotations

from pathlib import Path

import torch

from kdrun.datasets.files import Known, locate
from kdrun.datasets.raw import Labelled, Raw

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
        values, labels = load_svmlight_file(str(path), n_features=256)  # values in [-1, 1], labels 1 to 10
        grey = torch.from_numpy(values.toarray()).add(1).mul(127.5).round().to(torch.uint8)
        return Labelled(grey.view(-1, 1, 16, 16), torch.from_numpy(labels).long() - 1)

    return Raw(tuple(str(digit) for digit in range(10)), train=split("usps.bz2"), test=split("usps.t.bz2"))
