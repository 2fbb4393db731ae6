"""What every loss term is."""

from __future__ import annotations

from torch import Tensor, nn

from kdrun.types import Batch, Outputs


class Term(nn.Module):
    """One term of a loss: `forward(student, teacher, batch)` gives a scalar, the mean over the batch.

    The formula itself is a pure function beside the class. Parameters registered here are optimised and saved with
    the student, and are absent from what is deployed.
    """

    needs_teacher: bool = True
    relational: bool = False  # does it compare samples of the batch with each other?
    taps: tuple[str, ...] = ()  # which features it reads, by tap name

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        """Called once, with both models' outputs on one small batch: make adapters, refuse what does not fit.

        Raises `UsageError` with one line that names what was given and what would work.
        """

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what its forward is")


def teacher_logits(teacher: Outputs | None) -> Tensor:
    """The teacher's logits, for a term that cannot do without. Raises `TypeError` when there is no teacher."""
    if teacher is None:
        raise TypeError("this loss term needs a teacher, and none was given")
    return teacher.logits
