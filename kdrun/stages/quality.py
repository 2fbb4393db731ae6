"""The numbers of a trained model on every split; those of one that does not change any more are taken once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdrun import assembly
from kdrun.datasets.split import Data, Split, stratified
from kdrun.device import layout, place
from kdrun.engine import Answer, evaluate, results
from kdrun.models.building import Model
from kdrun.records.measured import remembered
from kdrun.records.store import weights_fingerprint
from kdrun.schema import Plain
from kdrun.stages.common import Setting
from kdrun.stages.details import Noted, disagreements

TRAIN_SAMPLES = 10_000  # training images, at most, on which train accuracy is taken


def totals_on(
    part: Split, config: Plain, model: nn.Module, where: tuple[str, str], teacher: Answer | None = None
) -> dict[str, Tensor]:
    """All summed metrics of a model that answers with `Outputs` on one split."""
    return evaluate(model, assembly.plain_loader(config, part), assembly.metrics(), where, teacher)


@dataclass(frozen=True)
class Reference:
    """A teacher whose answers to the test split a model's are compared with, and everything that decides them."""

    answer: Answer
    key: Mapping[str, Any]


@dataclass(frozen=True)
class Quality:
    """Metrics by `<split>/<metric>`; of the test split the confusion matrix (row = true class, column = predicted),
    the bins of its calibration, and, where a teacher was asked too, samples that the two see differently."""

    numbers: dict[str, float]
    confusion: list[list[int]]
    calibration: list[list[float]]
    disagreements: Plain | None = None


def quality(
    model: Model, config: Plain, data: Data, where: tuple[str, str], reference: Reference | None = None
) -> Quality:
    """How good a trained model is on every split. Nothing reads the test split before a training is over."""
    tapped = place(model.tapped(), *where)
    numbers: dict[str, float] = {}
    for name, part in {"train": _some(data.train), "val": data.validation}.items():
        if part is not None:
            numbers |= _named(name, totals_on(part, config, tapped, where))
    noted = None if reference is None else Noted(tapped, reference.answer)
    asked = (tapped, None) if noted is None else (noted, noted.answer)
    test = totals_on(data.test, config, asked[0], where, asked[1])
    numbers |= _named("test", test) | {"test/samples": len(data.test)}
    numbers["generalisation_gap"] = numbers["train/accuracy"] - numbers["test/accuracy"]
    seen = None if noted is None else disagreements(noted, data.test, data.classes)
    return Quality(numbers, confusion(test), calibration(test), seen)


def known_quality(
    model: Model,
    config: Plain,
    data: Data,
    where: tuple[str, str],
    reference: Reference | None = None,
    *,
    role: str,
    anew: bool = False,
) -> Quality:
    """`quality` of a model whose training is over: taken once, since the next run would find the same.

    Which samples it and the teacher see differently is not kept. `role` names the model in the log. `anew`: taken now,
    whatever is known.
    """
    key = quality_key(model, data, where, reference)

    def measure() -> Plain:
        return asdict(replace(quality(model, config, data, where, reference), disagreements=None))

    return Quality(**remembered(Path(config["output_dir"]), key, role, measure, anew))


def quality_key(model: Model, data: Data, where: tuple[str, str], reference: Reference | None) -> Plain:
    """Everything that decides the numbers of a model, but for code, versions and the machine."""
    splits = {"train": data.train, "val": data.validation, "test": data.test}
    return {
        "what": "quality",
        "weights": weights_fingerprint(model.net.net.state_dict()),
        "spec": model.spec,
        "data": data.fingerprint,
        "samples": weights_fingerprint({name: part.index for name, part in splits.items() if part is not None}),
        "reference": None if reference is None else dict(reference.key),
        "layout": str(layout(*where)),
        "device": Setting(*where).record(),
    }


def _named(split: str, totals: dict[str, Tensor]) -> dict[str, float]:
    return {f"{split}/{key}": value for key, value in results(totals, assembly.metrics()).items()}


def confusion(totals: dict[str, Tensor]) -> list[list[int]]:
    return [[int(count) for count in row] for row in totals["confusion"].tolist()]


def calibration(totals: dict[str, Tensor]) -> list[list[float]]:
    """Of each bin of confidence: samples, mean confidence, share of correct ones; bins without samples are left out."""
    bins = totals["calibration"].T.tolist()
    return [[count, confidence / count, correct / count] for count, confidence, correct in bins if count]


def _some(train: Split) -> Split:
    """A fixed stratified part of a large training split."""
    if len(train) <= TRAIN_SAMPLES:
        return train
    kept = stratified(train.targets.cpu(), train.index.cpu(), 0, count=TRAIN_SAMPLES)
    return Split(train.pixels, train.targets, train.index[kept.to(train.index.device)])
