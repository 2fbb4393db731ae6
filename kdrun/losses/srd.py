"""Miles, Mikolajczyk 2024, "Understanding the Role of the Projector in Knowledge Distillation", 2303.11098."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from kdrun.adapters import as_vector
from kdrun.losses.term import Term
from kdrun.pairing import Pair, both, pair_embeddings
from kdrun.types import Batch, Outputs

EPSILON = 1e-5  # of the batch norm


def standardised(points: Tensor) -> Tensor:
    """`(B, D)` with mean 0 and variance 1 over the batch in every column: batch norm without parameters."""
    centred = points - points.mean(dim=0)
    return centred / (centred.pow(2).mean(dim=0) + EPSILON).sqrt()


def srd_loss(student: Tensor, teacher: Tensor, power: float, epsilon: float) -> Tensor:
    """`log(ε + Σ |student - teacher|^power)` of standardised points `(B, D)`: summed over columns, mean over the batch.

    The paper sums over the batch as well, which adds log B and has the same gradient. ε is its floor, `log ε`, and
    keeps the gradient finite.
    """
    difference = (standardised(student) - standardised(teacher)).abs().pow(power)
    return (epsilon + difference.sum(dim=1).mean()).log()


class SRD(Term):
    features = True
    relational = True
    smallest_batch = 2

    def __init__(self, power: float = 4.0, epsilon: float = 1e-6, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.power, self.epsilon, self.given = power, epsilon, pairs
        self.pair = Pair("", "")
        self.projector: nn.Module = nn.Identity()

    def build(self, student_probe: Outputs, teacher_probe: Outputs | None, teacher: nn.Module | None) -> None:
        self.pair = pair_embeddings(student_probe, teacher_probe, self.given)
        known, wanted = (as_vector(one) for one in both(student_probe, teacher_probe, self.pair))
        self.projector = nn.Linear(known.shape[1], wanted.shape[1])

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        known, wanted = (as_vector(one) for one in both(student, teacher, self.pair))
        return srd_loss(self.projector(known), wanted, self.power, self.epsilon)
