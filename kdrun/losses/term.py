"""What every loss term is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from kdrun.models.building import Model
from kdrun.types import Batch, Outputs


class Deployed(NamedTuple):
    """What is shipped instead of the student: a model with its own spec, and where its taps are."""

    model: Model
    taps: Mapping[str, str]


class Term(nn.Module):
    """One term of a loss: `forward(student, teacher, batch)` gives a scalar, the mean over the batch.

    The formula itself is a pure function beside the class. Parameters registered here are optimised and saved with
    the student, and are absent from what is deployed.
    """

    needs_teacher: bool = True
    relational: bool = False  # does it compare samples of the batch, or divide by a mean over it? Several
    # processes then give it the whole batch, and any other term their parts
    features: bool = False  # does it read what is tapped inside the models? Then both are tapped before `build`
    smallest_batch: int = 1  # fewer samples than this have no such loss
    courses: Mapping[str, Callable[[float], float]] = {}  # options that change while training, as functions of `done`
    first: float = 0.0  # the share of the training at its begin in which this term is alone: its first phase
    stays: bool = True  # does it count after that phase?

    def remember(self, index: Tensor, targets: Tensor) -> None:
        """Called once, before `build`: the numbers of all training samples `(n,)`, and their targets.

        For a term that keeps something of every sample.
        """

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        """Called once, with both models' outputs on one small batch: make adapters, refuse what does not fit.

        Raises `UsageError` with one line that names what was given and what would work.
        """

    def deployed(self, student: Model, taps: Mapping[str, str]) -> Deployed | None:
        """Called once after `build`: what is shipped when that is more than the student, whose taps are `taps`.

        It takes the student's place at once: what is trained, measured, counted and saved is what is shipped.
        """
        return None

    def progress(self, done: float) -> None:
        """Called before every step with the share of the training that is done, `0 <= done < 1`.

        What a term sets here must follow from `done` alone: a training that is gone on with calls it with the same.
        """
        for option, course in self.courses.items():
            setattr(self, option, course(done))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what its forward is")


def teacher_logits(teacher: Outputs | None) -> Tensor:
    """The teacher's logits, for a term that cannot do without. Raises `TypeError` when there is no teacher."""
    if teacher is None:
        raise TypeError("this loss term needs a teacher, and none was given")
    return teacher.logits


def labels(batch: Batch) -> Tensor:
    """The targets, class numbers `(B,)` or soft classes `(B, C)`. Raises `TypeError` when the data has none."""
    if batch.targets is None:
        raise TypeError("this loss term needs labels, and the data has none")
    return batch.targets


def class_numbers(batch: Batch) -> Tensor:
    """The class of each sample, `(B,)`; of soft classes, as mixed views have them, the likeliest."""
    targets = labels(batch)
    return targets if targets.dim() == 1 else targets.argmax(dim=1)
