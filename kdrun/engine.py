"""The only two loops of the project: `fit` trains, `evaluate` measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdrun import parallel, processes
from kdrun.datasets.loader import TrainLoader
from kdrun.device import autocast, seed_all
from kdrun.errors import KdrunError
from kdrun.learner import Learner
from kdrun.types import Batch, Outputs

Answer = Callable[[Batch], Outputs]  # a teacher, as far as the engine is concerned


@dataclass(frozen=True)
class Recipe:
    """How a learner is trained. `rate(step, steps)` is the factor on the base learning rate."""

    epochs: int
    rate: Callable[[int, int], float]
    device: str
    precision: str
    seed: int
    accumulate: int = 1
    grad_clip: float | None = None
    report_every: int = 20  # batches between reports, the only times the loss is read from the device
    norms_every: int | None = 100  # batches between measurements of each term's gradient: two more backward passes


class Training:
    """All that changes while a learner is trained, and hence all that is needed to go on."""

    def __init__(self, learner: Learner, optimizer: Optimizer, device: str, precision: str, ema: float | None) -> None:
        self.learner, self.optimizer = learner, optimizer
        self.parallel = parallel.parallel(learner, phases=learner.first > 0)  # the learner itself in one process
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
        self.average = None if ema is None else _averaged(learner.student, ema)
        self.epoch, self.step = 0, 0  # epochs that are done, and batches of the one that has begun
        self.phase = 0  # of the loss: what the optimizer remembers is of this one
        self.means = Means()

    @property
    def student(self) -> nn.Module:
        """What is evaluated: the moving average of the student where there is one. It answers with `Outputs`."""
        return self.learner.student if self.average is None else self.average.module

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain types only."""
        return {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "phase": self.phase,
            "means": {"sums": dict(self.means.sums), "samples": dict(self.means.samples)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises `KeyError`, `TypeError` or `ValueError` for what is no state of such a training."""
        for name, module in (("learner", self.learner), ("average", self.average)):
            if module is not None:
                refuse_other_tensors(state[name], module.state_dict(), name)
                module.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        numbers = {key: state[key] for key in ("epoch", "step", "phase")}
        if not all(isinstance(number, int) and number >= 0 for number in numbers.values()):
            raise ValueError(f"must be whole numbers of at least 0: {numbers}")
        self.epoch, self.step, self.phase = state["epoch"], state["step"], state["phase"]
        means = Means(dict(state["means"]["sums"]), dict(state["means"]["samples"]))
        counts = list(means.samples.values())
        if means.sums.keys() != means.samples.keys() or not all(isinstance(one, int) and one > 0 for one in counts):
            raise ValueError(f"means over so many samples: {means.samples}")
        refuse_other_tensors(means.sums, {key: torch.zeros(()) for key in means.sums}, "means")
        self.means = means.shared()


def refuse_other_tensors(state: Any, own: Mapping[str, Any], name: str) -> None:
    """Raise `ValueError` unless a state has the tensors of its owner, by name and shape."""
    found, wanted = (
        {key: value.shape if isinstance(value, Tensor) else type(value) for key, value in dict(one).items()}
        for one in (state, own)
    )
    other = [str(key) for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise ValueError(f"{name} lacks tensors, or has others or ones of another shape: {', '.join(other[:3])}{more}")


@dataclass(frozen=True)
class Report:
    """Where the training stands: `step` of `steps` batches in an epoch, means over the epoch so far."""

    epoch: int
    step: int
    steps: int
    lr: float
    metrics: dict[str, float]
    finished: bool = False  # the epoch is complete
    stopped: bool = False  # on request, in mid-epoch, and no update is half done


def fit(
    training: Training,
    teacher: Answer | None,
    loader: TrainLoader,
    recipe: Recipe,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Report]:
    """Train from where `training` stands to the last epoch, reporting every few batches and at the end of each epoch.

    Writes nothing; whoever iterates may look at `training`, keep its state, or leave. `stop` is asked after each
    update: when it says so, the last report is given and the state of `training` is one from which another `fit` goes
    on to the same weights. Raises `KdrunError` when a loss is not finite, at the first report after it happened.
    """
    steps = len(loader)
    for epoch in range(training.epoch, recipe.epochs):
        training.learner.train()
        for step, batch in enumerate(loader.epoch(epoch, training.step), training.step):
            seed_all(recipe.device, recipe.seed, epoch, step)
            _set_progress(training, recipe, epoch * steps + step, recipe.epochs * steps)
            group = min(recipe.accumulate, steps - step // recipe.accumulate * recipe.accumulate)
            measured = recipe.norms_every is not None and (epoch * steps + step) % recipe.norms_every == 0
            finished = step + 1 == steps
            updated = (step + 1) % recipe.accumulate == 0 or finished
            with parallel.silent(training.parallel, until_later=not updated):
                outputs, losses = _backward(training, teacher, batch, recipe, 1 / group, measured)
            training.means.add(outputs, losses, batch)
            training.step = step + 1
            if updated:
                _update(training, recipe.grad_clip)
            stopped = updated and not finished and stop()
            if training.step % recipe.report_every == 0 or finished or stopped:
                yield _report(training, steps, stopped)
            if stopped:
                return


def _report(training: Training, steps: int, stopped: bool) -> Report:
    """Where the training stands. After the last batch of an epoch it stands at the beginning of the next."""
    rate = training.optimizer.param_groups[0]["lr"]
    report = training.means.report(training.epoch, training.step, steps, rate, stopped)
    if report.finished:
        training.epoch, training.step, training.means = training.epoch + 1, 0, Means()
    return report


def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    metrics: Mapping[str, ModuleType],
    autocasting: tuple[str, str],
    teacher: Answer | None = None,
) -> dict[str, Tensor]:
    """The summed metrics of a model that answers with `Outputs`, by metric name; `results` turns them into numbers.

    `autocasting` is (device, precision). Leaves the model in eval mode. Where several processes share the batches,
    each is given the sums over all of them.
    """
    model.eval()
    parallel.same_buffers(model)
    totals: dict[str, Tensor] = {}
    for batch in loader:
        with torch.no_grad(), autocast(*autocasting):
            logits = model(batch.inputs).logits.float().cpu()
        expected = None if teacher is None else teacher(batch).logits.float().cpu()
        targets = None if batch.targets is None else batch.targets.cpu()
        for name, metric in metrics.items():  # on the CPU: sums are float64, which not every device has
            part = metric.sums(logits, targets, expected)
            if part is not None:
                totals[name] = totals[name] + part if name in totals else part
    return _added(processes.everyone(totals))


def _added(shares: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """By name the sum over those that have it."""
    names = dict.fromkeys(name for share in shares for name in share)
    return {name: torch.stack([share[name] for share in shares if name in share]).sum(dim=0) for name in names}


def results(totals: Mapping[str, Tensor], metrics: Mapping[str, ModuleType]) -> dict[str, float]:
    """The numbers of all metrics, flat."""
    return {key: value for name, total in totals.items() for key, value in metrics[name].result(total).items()}


@dataclass
class Means:
    """Running means over an epoch, each over the batches that had it, kept on the device until they are reported.

    Where several processes share a batch, each adds up its own samples; a report adds up the processes.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)

    def add(self, outputs: Outputs, losses: Mapping[str, Tensor], batch: Batch) -> None:
        for name, loss in losses.items():
            self._add(name, loss.detach() * batch.own, batch.whole)
        if batch.targets is not None and outputs.logits.dim() == 2:
            labels = batch.targets if batch.targets.dim() == 1 else batch.targets.argmax(dim=1)
            correct = outputs.logits.detach().argmax(dim=1) == labels
            self._add("accuracy", correct[: batch.own].sum().float(), batch.whole)

    def report(self, epoch: int, step: int, steps: int, lr: float, stopped: bool = False) -> Report:
        whole = parallel.summed(torch.stack(list(self.sums.values())))
        self.sums = dict(zip(self.sums, whole, strict=True))
        self.shared()
        totals = whole.tolist()
        metrics = {name: total / self.samples[name] for name, total in zip(self.sums, totals, strict=True)}
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise KdrunError(
                    f"{name} became {value} in epoch {epoch + 1} by step {step} of {steps}, learning rate {lr:.3g}; "
                    "try a lower optimizer.lr, grad_clip=1.0, or device.precision=fp32"
                )
        return Report(epoch, step, steps, lr, metrics, finished=step == steps, stopped=stopped)

    def shared(self) -> Means:
        """Sums over all processes are the first one's; the others begin anew."""
        if not processes.is_first():
            self.sums = {name: torch.zeros_like(total) for name, total in self.sums.items()}
        return self

    def _add(self, name: str, value: Tensor, samples: int) -> None:
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.samples[name] = self.samples.get(name, 0) + samples


def _backward(
    training: Training, teacher: Answer | None, batch: Batch, recipe: Recipe, share: float, measured: bool
) -> tuple[Outputs, dict[str, Tensor]]:
    """Forward and backward of one batch; its gradient is added with weight `share`. Losses: each term, and `loss`.

    With them go the weights, and the terms' gradients when they are to be measured.
    """
    learner = training.learner
    target = None if teacher is None else teacher(batch)
    with autocast(recipe.device, recipe.precision):
        outputs, losses = training.parallel(batch, target)
    total = learner.total(losses)
    norms = _gradient_norms(training, losses) if measured and len(learner.terms) > 1 else {}
    training.scaler.scale(total * share).backward()
    weights = {f"weight/{name}": total.new_full((), now) for name, now in learner.weights_now().items()}
    return outputs, {f"loss/{name}": loss for name, loss in losses.items()} | norms | weights | {"loss": total}


def _gradient_norms(training: Training, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By `gradient/<name>` the length of each term's gradient in the student's parameters, before its weight."""
    parameters = [one for one in training.learner.student.parameters() if one.requires_grad]
    norms = {}
    for name, loss in ((name, loss) for name, loss in losses.items() if loss.requires_grad):
        scaled = training.scaler.scale(loss)
        parts = torch.autograd.grad(scaled, parameters, retain_graph=True, allow_unused=True)
        whole = [parallel.averaged(part) for part in parts if part is not None]
        squares = [part.to(loss.dtype).square().sum() for part in whole]
        norms[f"gradient/{name}"] = (
            torch.stack([loss.new_zeros(()), *squares]).sum().sqrt() / training.scaler.get_scale()
        )
    return norms


def _update(training: Training, grad_clip: float | None) -> None:
    """One optimizer step with what has been gathered in the gradients."""
    training.scaler.unscale_(training.optimizer)
    if grad_clip is not None:
        nn.utils.clip_grad_norm_(training.learner.parameters(), grad_clip)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad()
    if training.average is not None:
        training.average.update_parameters(training.learner.student)


def _set_progress(training: Training, recipe: Recipe, step: int, steps: int) -> None:
    """Learning rate, weights and curricula at `step` of `steps`: functions of the step, nothing to remember.

    A phase of the loss has the whole schedule to itself, and an optimizer that remembers nothing of the one before.
    """
    training.learner.progress(step / steps)
    phase = training.learner.phase
    begin, end = (math.ceil(share * steps) for share in (phase.begin, phase.end))
    if phase.number != training.phase:
        training.optimizer.state.clear()
        training.phase = phase.number
    scale = recipe.rate(max(0, step - begin), end - begin)
    for group, rate in zip(training.optimizer.param_groups, training.rates, strict=True):
        group["lr"] = rate * scale


def _averaged(student: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
