"""Every loss of `conf/loss` trained in two processes is the training of one; each part of what makes it so is needed.

The two processes are started once for all losses.
"""

from __future__ import annotations

import pytest

from kdrun import config
from kdrun.launch import launch
from scripts.equality_table import LIMIT, LOSSES, Case, Found, apart, config_of, trained
from tests.composing import quickly

CONTROLS = {  # a loss, and the mistake that it must not bear
    "not gathered": "rkd",
    "not weighed": "kd",
    "added up twice": "hard",
}

pytestmark = [pytest.mark.ddp, pytest.mark.slow]


@pytest.fixture(scope="module")
def trainings() -> tuple[Found, Found]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "_compose", quickly)
        cases = [Case(loss, config_of(loss)) for loss in LOSSES]
        wrong = [Case(mistake, config_of(loss), mistake) for mistake, loss in CONTROLS.items()]
    return trained(cases), launch(2, trained, [*cases, *wrong])


@pytest.mark.parametrize("loss", LOSSES)
def test_two_processes_train_as_one(trainings: tuple[Found, Found], loss: str) -> None:
    weights, metrics = apart(*trainings, loss)
    assert weights <= LIMIT
    assert metrics <= LIMIT


@pytest.mark.parametrize(("mistake", "loss"), CONTROLS.items())
def test_a_naive_way_is_noticed(trainings: tuple[Found, Found], mistake: str, loss: str) -> None:
    alone, two = trainings
    assert max(apart(alone, {loss: two[mistake]}, loss)) > 10 * LIMIT
