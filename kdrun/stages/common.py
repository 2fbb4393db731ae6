"""What the stages share: where to compute, and the numbers of a trained model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrun import assembly, parallel, processes
from kdrun.cost import costs
from kdrun.datasets.split import Data, Split, stratified
from kdrun.device import check_compiler, keep_memory, make_deterministic, pick_device, pick_precision, place
from kdrun.engine import Answer, evaluate, results
from kdrun.models.building import Model
from kdrun.origins import Origin
from kdrun.records.run import Run
from kdrun.records.state import StateFiles
from kdrun.schema import Plain
from kdrun.stages.details import Noted, disagreements

log = logging.getLogger("kdrun")
TRAIN_SAMPLES = 10_000  # training images, at most, on which train accuracy is taken


@dataclass(frozen=True)
class Setting:
    """Where and how exactly a model computes."""

    device: str
    precision: str

    def record(self) -> Plain:
        """For `run.json`."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else self.device
        of_one = {"kind": self.device, "name": name, "threads": torch.get_num_threads(), "precision": self.precision}
        return {**of_one, "processes": processes.count()}


def use_device(config: Plain) -> str:
    """The device of a config, with threads, determinism and memory set for this process."""
    device = pick_device(config["device"]["name"])
    if config["device"]["threads"] is not None:
        torch.set_num_threads(config["device"]["threads"])
    if config["device"]["compile"]:
        check_compiler(device)
    make_deterministic(device)
    keep_memory()
    return device


def setting(config: Plain, device: str) -> Setting:
    return Setting(device, pick_precision(config["device"]["precision"], device))


def tell_adapted(run: Run, config: Plain, model: Model, origin: Origin | None, data: Data) -> None:
    """Say and record what of the model is not as it was named: larger images are fed, or its classifier is new."""
    own, fed = data.shape[1], model.spec["size"]
    if fed > own:
        _tell(run, "enlarged", f"images of {own}x{own} pixels are enlarged to {fed}x{fed} on the model's side")
    if origin is not None and not origin.complete:
        weights = config["model"]["checkpoint"] or config["model"]["weights"]
        _tell(run, "classifier", f"{weights} is for another number of classes: its classifier is trained anew")


def _tell(run: Run, what: str, said: str) -> None:
    log.info(said)
    run.note(**{what: said})


def tell_batch_norm(run: Run, learner: torch.nn.Module) -> None:
    """Say and record that several processes do not train a network with batch norm as one process would."""
    if processes.count() > 1 and parallel.norms(learner):
        how = parallel.kind_of_norms(learner)
        run.note(batch_norm=how)
        if how == "local":
            said = "takes its statistics from each process's part of a batch: the numbers are not those of one process"
            log.warning("batch norm %s", said)


def totals_on(
    part: Split, config: Plain, model: torch.nn.Module, where: tuple[str, str], teacher: Answer | None = None
) -> dict[str, Tensor]:
    """All summed metrics of a model that answers with `Outputs` on one split."""
    return evaluate(model, assembly.plain_loader(config, part), assembly.metrics(), where, teacher)


@dataclass(frozen=True)
class Quality:
    """Metrics by `<split>/<metric>`; of the test split the confusion matrix (row = true class, column = predicted),
    the bins of its calibration, and, where a teacher was asked too, samples that the two see differently."""

    numbers: dict[str, float]
    confusion: list[list[int]]
    calibration: list[list[float]]
    disagreements: Plain | None = None


def quality(model: Model, config: Plain, data: Data, where: tuple[str, str], teacher: Answer | None = None) -> Quality:
    """How good a trained model is on every split. The test split is read here and nowhere else, once a model."""
    tapped = place(model.tapped(), *where)
    numbers: dict[str, float] = {}
    for name, part in {"train": _some(data.train), "val": data.validation}.items():
        if part is not None:
            numbers |= _named(name, totals_on(part, config, tapped, where))
    noted = None if teacher is None else Noted(tapped, teacher)
    asked = (tapped, None) if noted is None else (noted, noted.answer)
    test = totals_on(data.test, config, asked[0], where, asked[1])
    numbers |= _named("test", test) | {"test/samples": len(data.test)}
    numbers["generalisation_gap"] = numbers["train/accuracy"] - numbers["test/accuracy"]
    seen = None if noted is None else disagreements(noted, data.test, data.classes)
    return Quality(numbers, confusion(test), calibration(test), seen)


def _named(split: str, totals: dict[str, Tensor]) -> dict[str, float]:
    return {f"{split}/{key}": value for key, value in results(totals, assembly.metrics()).items()}


def confusion(totals: dict[str, Tensor]) -> list[list[int]]:
    return [[int(count) for count in row] for row in totals["confusion"].tolist()]


def calibration(totals: dict[str, Tensor]) -> list[list[float]]:
    """Of each bin of confidence: samples, mean confidence, share of correct ones; bins without samples are left out."""
    bins = totals["calibration"].T.tolist()
    return [[count, confidence / count, correct / count] for count, confidence, correct in bins if count]


def price(models: Mapping[str, Model], device: str) -> dict[str, float]:
    """What each model costs, by `<role>/<measure>`, in float32 with the threads of this process, the first one's."""
    if not processes.is_first():
        return {}
    priced = {}
    for role, model in models.items():
        spec = model.spec
        image = torch.zeros(1, spec["channels"], spec["size"], spec["size"], device=device)
        priced[role] = place(model.net, device, "fp32").float(), image
    return {f"{role}/{key}": value for role, found in costs(priced).items() for key, value in found.items()}


def state_files(run: Run, config: Plain) -> StateFiles:
    return StateFiles(run.path / "checkpoints", config["checkpoint"]["every"])


def conclude(states: StateFiles, config: Plain) -> None:
    """The run has what it is for: free what was needed to go on with it."""
    if config["checkpoint"]["keep"] == "model":
        states.drop()


def fill(model: Model, weights: Mapping[str, Tensor]) -> None:
    model.net.net.load_state_dict(dict(weights))


def _some(train: Split) -> Split:
    """A fixed stratified part of a large training split."""
    if len(train) <= TRAIN_SAMPLES:
        return train
    kept = stratified(train.targets.cpu(), train.index.cpu(), 0, count=TRAIN_SAMPLES)
    return Split(train.pixels, train.targets, train.index[kept.to(train.index.device)])
