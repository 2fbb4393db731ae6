"""A training as a stage sees it: validation after each epoch, the choice of an epoch, saving, stopping, going on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

from torch import Tensor

from kdrun import assembly, processes, stopping
from kdrun.datasets.split import Data
from kdrun.engine import Answer, Recipe, Report, Training, fit, refuse_other_tensors, results
from kdrun.progress import Bar, training_bar
from kdrun.records.run import Line, Run
from kdrun.records.state import StateFiles
from kdrun.schema import Plain
from kdrun.stages.common import tell_batch_norm
from kdrun.stages.quality import totals_on
from kdrun.tasks.classification import CHOOSING

CHOICE = ("measured", "score", "best", "chosen", "weights")


def optimise(
    run: Run, states: StateFiles, config: Plain, training: Training, teacher: Answer | None, data: Data
) -> dict[str, Tensor]:
    """Train to the end, or until early stopping, and return the weights of the chosen epoch.

    Chosen is the epoch best on the validation split (the first of equals), or the last one; the test split plays no
    part. Every epoch leaves its lines in the run's metrics. A run that was cut off goes on from its newest state, to
    the same numbers. Raises `Stopped` when somebody asks, with the state saved.
    """
    recipe = assembly.recipe(config, run.info["device"]["kind"], run.info["device"]["precision"])
    loader = assembly.train_loader(config, data)
    tell_batch_norm(run, training.learner)
    course = Course(run, states, config, training, data, recipe)
    unmeasured = course.restore(len(loader))
    shown = training_bar(run.info["stage"], recipe.epochs, training.epoch, config["batch_size"])
    with shown as bar, stopping.deferred():
        reports = () if course.exhausted else fit(training, teacher, loader, recipe, processes.asked_to_stop)
        for report in chain(unmeasured, reports):
            bar.update(report)
            if report.finished:
                course.measure(report, bar)
            stop = report.stopped or (report.finished and processes.asked_to_stop())
            if stop or (report.finished and states.due(report.epoch + 1)):
                course.save()
            if stop:
                stopping.check()
            if course.exhausted:
                break
    run.note(chosen_epoch=course.chosen + 1)
    return course.weights


@dataclass
class Course:
    """What is known so far of a training: its run, and the epoch that is chosen if it ended now."""

    run: Run
    states: StateFiles
    config: Plain
    training: Training
    data: Data
    recipe: Recipe
    measured: int = 0  # epochs
    score: float = float("-inf")
    best: int = 0  # the epoch with the best score, counted from 0
    chosen: int = 0  # the epoch that `weights` are of
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def exhausted(self) -> bool:
        """Has validation not become better for as long as the config has patience, in the last phase of the loss?"""
        patience = self.config["early_stopping"]["patience"]
        preparing = self.training.learner.phase.end < 1
        return patience is not None and not preparing and self.measured - 1 - self.best >= patience

    def measure(self, report: Report, bar: Bar) -> None:
        """Validate after an epoch, leave its lines in the metrics, and choose."""
        validation: dict[str, float] = {}
        if self.data.validation is not None:
            where = (self.recipe.device, self.recipe.precision)
            try:
                with stopping.at_once() if processes.count() == 1 else nullcontext():  # several end together
                    totals = totals_on(self.data.validation, self.config, self.training.student, where)
            except stopping.Stopped:
                self.save(unmeasured=report)
                raise
            validation = results(totals, assembly.metrics())
        validated: Line = {"epoch": report.epoch + 1, "split": "val", **validation}
        trained: Line = {"epoch": report.epoch + 1, "split": "train", "lr": report.lr, **report.metrics}
        self.run.metrics(*([validated, trained] if validation else [trained]))
        bar.epoch(report, validation)
        score = validation.get(CHOOSING, 0.0)
        self.measured, better = report.epoch + 1, score > self.score
        if better:
            self.score, self.best = score, report.epoch
        if better or self.config["select"] == "last":
            self.chosen, self.weights = report.epoch, _deployed(self.training)

    def save(self, unmeasured: Report | None = None) -> None:
        """Everything that is needed to go on; `unmeasured` is an epoch that is trained and not yet validated."""
        self.states.save(
            {
                "training": self.training.state_dict(),
                "choice": {key: getattr(self, key) for key in CHOICE},
                "history": self.run.history,
                "unmeasured": None if unmeasured is None else asdict(unmeasured),
            }
        )

    def restore(self, steps: int) -> list[Report]:
        """Go back to the newest state, if there is one. Returns its epoch that is still to be validated, if any.

        `steps`: batches of an epoch.
        """
        state = self.states.load(lambda state: self._take(state, steps))
        if state is None:
            return []
        self.run.recall(state["history"])
        return [] if state["unmeasured"] is None else [Report(**state["unmeasured"])]

    def _take(self, state: Mapping[str, Any], steps: int) -> None:
        """Go back to this state. Raises `KeyError`, `TypeError` or `ValueError` when it is none of this training."""
        choice, history, unmeasured = state["choice"], state["history"], state["unmeasured"]
        wrong = [key for key in CHOICE if not isinstance(choice[key], type(getattr(self, key)))]
        if wrong or not isinstance(history, list) or not all(isinstance(line, dict) for line in history):
            raise TypeError(f"not what is saved as {', '.join(wrong) or 'history'}")
        json.dumps(history)
        if unmeasured is not None:
            Report(**unmeasured)
        training = self.training
        training.load_state_dict(state["training"])
        if choice["measured"]:
            refuse_other_tensors(choice["weights"], _deployed(training), "weights")
        if training.epoch > self.recipe.epochs or training.step >= steps:
            raise ValueError(f"epoch {training.epoch} of {self.recipe.epochs}, step {training.step} of {steps}")
        for key in CHOICE:
            setattr(self, key, state["choice"][key])


def _deployed(training: Training) -> dict[str, Tensor]:
    """The weights of what is deployed: the network, without preparation, adapters or teacher."""
    prefix = "model.net."  # Tapped(Prepared(net))
    state = training.student.state_dict()
    return {key.removeprefix(prefix): t.detach().cpu().clone() for key, t in state.items() if key.startswith(prefix)}
