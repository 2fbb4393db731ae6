"""Where a distillation's teacher is from, and how it computes its answers."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdrun import assembly
from kdrun.datasets.loader import fetch
from kdrun.datasets.split import Data
from kdrun.device import autocast, compile_module, layout, pick_precision
from kdrun.identity import teacher_training
from kdrun.models.building import Model, build
from kdrun.origins import load_origin, same_classes
from kdrun.records.fingerprint import fingerprint
from kdrun.records.measured import remembered
from kdrun.records.models import load_model
from kdrun.records.runs import completed
from kdrun.records.store import weights_fingerprint
from kdrun.schema import Plain
from kdrun.stages.common import Setting
from kdrun.stages.train import ensure
from kdrun.teachers.live import LiveTeacher
from kdrun.teachers.lowered import Likeness, likeness, lowered

COMPARED = 64  # images on which a lowered teacher is compared
log = logging.getLogger("kdrun")


@dataclass(frozen=True)
class Taught:
    """The teacher's model and where it is from."""

    model: Model
    fingerprint: str
    precision: str
    parent: dict[str, Any]
    top_k: int | None = None  # of its logits, where not all are asked for

    @cached_property
    def weights(self) -> str:
        """The fingerprint of its weights, which the keys of a store have."""
        return weights_fingerprint(self.model.net.net.state_dict())

    def live(self, device: str, precision: str | None = None) -> LiveTeacher:
        return LiveTeacher(self.model.tapped(), self.fingerprint, device, precision or self.precision, self.top_k)

    def lowered(self, device: str) -> LiveTeacher:
        """Folded and with weights in half precision: quicker, if it answers the same."""
        model = lowered(self.model.tapped(), self.precision)
        return LiveTeacher(model, self.fingerprint, device, self.precision, self.top_k)


def find_teacher(config: Plain, data: Data, device: str, rebuild: bool = False) -> Taught:
    """From a run that is named, from a file whose classes are the data's, or from a training found or made."""
    node, precision = config["teacher"], pick_precision(config["device"]["precision"], device)
    top_k = node["top_k"] if node["top_k"] and node["top_k"] < len(data.classes) else None
    if node["run"] != "auto":
        path = Path(node["run"])
        completed(path)
        model = load_model(path)
    else:
        own = teacher_training(config)
        model = build(assembly.model_spec(own["model"], data, config["dataset"]), own["seed"])
        origin = load_origin(model, own["model"], data.classes)
        if origin is not None and origin.complete:
            parent = {
                "role": "teacher",
                "checkpoint": node["checkpoint"] or node["weights"],
                "fingerprint": origin.fingerprint,
            }
            known = fingerprint({"weights": origin.fingerprint, "spec": model.spec})
            return Taught(model, known, precision, parent, top_k)
        path, model = ensure(own, data, device, "teacher", rebuild)
    same_classes(model.spec["classes"], data.classes, f"teacher {path}")
    return Taught(
        model,
        completed(path)["fingerprint"],
        precision,
        as_parent("teacher", path),
        top_k,
    )


@dataclass(frozen=True)
class Way:
    """How a teacher computes its answers, and how like they are to those of the plain model in float32."""

    precision: str
    folded: bool = False
    compiled: bool = False
    likeness: Likeness | None = None

    def record(self) -> Plain:
        """For `run.json`."""
        return asdict(self)


def asked(teacher: Taught, config: Plain, data: Data, device: str) -> tuple[LiveTeacher, Way]:
    """The teacher as it is asked: below fp32 folded and in half precision, where it then answers as it did before.

    A loss that reads features gets them from the network as it was trained, whose layers are all there.
    """
    way = Way(teacher.precision, compiled=config["device"]["compile"])
    live = teacher.live(device)
    if teacher.precision != "fp32":
        folds = not assembly.reads_features(config)
        live = teacher.lowered(device) if folds else live
        found = _likeness(teacher, live, folds, config, data)
        way = replace(way, folded=folds, likeness=found)
        if not found.good:
            live, way = teacher.live(device, "fp32"), replace(way, precision="fp32", folded=False)
            told = "teacher: asked in fp32, since in %s it answers otherwise (KL divergence %s, agreement %.1f %%)"
            apart = "not finite" if found.divergence is None else f"{found.divergence:.2g}"
            log.info(told, teacher.precision, apart, 100 * found.agreement)
    if way.compiled:
        compile_module(live.model, device)
    return live, way


def _likeness(teacher: Taught, live: LiveTeacher, folds: bool, config: Plain, data: Data) -> Likeness:
    """Of the teacher as it would be asked to itself in float32, on a few training images from all over the split."""
    places = torch.linspace(0, len(data.train) - 1, min(COMPARED, len(data.train))).long()
    rows = data.train.index.sort().values[places]
    key = {
        "what": "likeness",
        "weights": teacher.weights,
        "spec": teacher.model.spec,
        "data": data.fingerprint,
        "samples": weights_fingerprint({"index": rows}),
        "folded": folds,
        "layout": str(layout(live.device, live.precision)),
        "device": Setting(live.device, live.precision).record(),
    }

    def measure() -> Plain:
        images = next(fetch(data.train.pixels, [rows], workers=0)).to(rows.device)
        return asdict(_compared(teacher.live(live.device, "fp32"), live, images))

    role = f"teacher, its answers in {live.precision}"
    return Likeness(**remembered(Path(config["output_dir"]), key, role, measure, anew=False))


def _compared(plain: LiveTeacher, other: LiveTeacher, images: Tensor) -> Likeness:
    with torch.no_grad():
        expected = plain.model(images)
        try:
            with autocast(other.device, other.precision):
                return likeness(expected, other.model(images))
        except RuntimeError:  # some layer does not compute in half precision
            return Likeness(None, 0.0)


def as_parent(role: str, path: Path) -> dict[str, Any]:
    return {"role": role, "run": str(path), "fingerprint": completed(path)["fingerprint"], "checkpoint": "model"}
