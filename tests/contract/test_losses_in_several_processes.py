"""Every loss of `conf/loss` trained in two processes is the training of one; each part of what makes it so is needed.

The two processes are started once for all losses.
"""

from __future__ import annotations

import pytest

from kdrun import composition
from kdrun.launch import launch
from scripts.equality_table import LIMIT, LOSSES, Case, Found, apart, config_of, trained
from tests.composing import quickly

CONTROLS = {  # a loss, and the mistake that it must not bear
    "not gathered": "rkd",
    "not weighed": "kd",
    "added up twice": "hard",
}

FEW = ["crd", *CONTROLS.values()]

pytestmark = pytest.mark.ddp


def trainings_of(losses: list[str], mistakes: dict[str, str]) -> tuple[Found, Found]:
    """In one process and in two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composition, "composed", quickly)
        cases = [Case(loss, config_of(loss)) for loss in losses]
        wrong = [Case(mistake, config_of(loss), mistake) for mistake, loss in mistakes.items()]
    return trained(cases), launch(2, trained, [*cases, *wrong])


@pytest.fixture(scope="module")
def few() -> tuple[Found, Found]:
    return trainings_of(FEW, CONTROLS)


@pytest.fixture(scope="module")
def others() -> tuple[Found, Found]:
    return trainings_of([loss for loss in LOSSES if loss not in FEW], {})


@pytest.mark.parametrize("loss", FEW)
def test_two_processes_train_as_one(few: tuple[Found, Found], loss: str) -> None:
    assert max(apart(*few, loss)) <= LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in FEW])
def test_two_processes_train_as_one_with_every_other_loss(others: tuple[Found, Found], loss: str) -> None:
    assert max(apart(*others, loss)) <= LIMIT


@pytest.mark.parametrize(("mistake", "loss"), CONTROLS.items())
def test_a_naive_way_is_noticed(few: tuple[Found, Found], mistake: str, loss: str) -> None:
    alone, two = few
    assert max(apart(alone, {loss: two[mistake]}, loss)) > 10 * LIMIT
