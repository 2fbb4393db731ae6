"""A student that answers with the classifier of its teacher: what the loss `simkd` ships. Not chosen by hand.

Chen, Mei, Zhang, Wang, Feng, Chen 2022, "Knowledge Distillation with the Reused Teacher Classifier", 2203.14001.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kdrun import lookup
from kdrun.adapters import as_map, resized
from kdrun.taps import Tapped

FEATURE = "projected"  # the student's feature as the teacher's classifier wants it


class Projector(nn.Module):
    """Three convolutions (1x1, 3x3, 1x1), each with batch norm, from a student's feature to a teacher's map.

    Where that is one pixel, the middle one is 1x1 too: the rest of it would see nothing but zeros.
    """

    def __init__(self, known: int, wanted: int, reduction: int, pixels: int, rectified: bool) -> None:
        super().__init__()
        self.size = (pixels, pixels)
        hidden = max(1, wanted // reduction)
        first = [nn.Conv2d(known, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()]
        side = 3 if pixels > 1 else 1
        middle = [nn.Conv2d(hidden, hidden, side, padding=side // 2, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()]
        last = [nn.Conv2d(hidden, wanted, 1, bias=False), nn.BatchNorm2d(wanted), *([nn.ReLU()] if rectified else [])]
        self.layers = nn.Sequential(*first, *middle, *last)

    def forward(self, feature: Tensor) -> Tensor:
        return self.layers(resized(as_map(feature), self.size))


class Reused(nn.Module):
    """`classifier(mean over pixels of projector(feature of the student at tap))`; the student's classifier is gone."""

    def __init__(self, student: nn.Module, tap: str, projector: Projector, classifier: nn.Linear) -> None:
        super().__init__()
        drop_classifier(student, classifier.out_features)
        self.student = Tapped(student, {FEATURE: tap})
        self.projector, self.classifier = projector, classifier.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.projector(self.student(x).features[FEATURE]).mean(dim=(2, 3)))


def build(
    classes: int, channels: int, size: int, student: Mapping[str, Any], tap: str, projector: Mapping[str, Any]
) -> nn.Module:
    """`student` has the kind and options of its network, `projector` those of `Projector`."""
    network = lookup.module("models", student["kind"]).build(classes, channels, size, **student["options"])
    return Reused(network, tap, Projector(**projector), nn.Linear(projector["wanted"], classes))


def drop_classifier(network: nn.Module, classes: int) -> None:
    """Put nothing in place of the last layer, where it is linear and answers with the classes."""
    path = [path for path, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    last = network.get_submodule(path)
    if isinstance(last, nn.Linear) and last.out_features == classes:
        network.set_submodule(path, nn.Identity())


def taps_of(student: Mapping[str, str]) -> dict[str, str]:
    """Where the taps of a student are once it is reused, and that of the projector."""
    return {name: f"student.model.{place}" for name, place in student.items()} | {FEATURE: "projector"}


def options_of(student: Mapping[str, Any], tap: str, sizes: Sequence[int], rectified: bool) -> dict[str, Any]:
    """The options of a spec: the student's own spec, its tap, and the projector's channels, reduction and pixels."""
    names = ("known", "wanted", "reduction", "pixels")
    projector = {**dict(zip(names, sizes, strict=True)), "rectified": rectified}
    return {"student": {key: student[key] for key in ("kind", "options")}, "tap": tap, "projector": projector}
