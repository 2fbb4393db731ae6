"""Phases of a loss: what is trained in each, what the optimizer forgets between them, and going on in either."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdrun import engine, learner
from kdrun.losses import Term
from kdrun.losses.cross_entropy import CrossEntropy
from kdrun.losses.kd import KD
from kdrun.losses.term import teacher_logits
from kdrun.stages import optimise
from kdrun.taps import Tapped
from kdrun.types import Batch, Outputs
from tests.conftest import mutated


class Prepare(Term):
    """A first phase of its own: an adapter that follows the teacher. Silent afterwards."""

    first, stays = 0.4, False

    def __init__(self) -> None:
        super().__init__()
        self.adapter = nn.Linear(3, 3)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        return (self.adapter(student.logits) - teacher_logits(teacher)).square().mean()


class Batches:
    """Five batches an epoch."""

    def __len__(self) -> int:
        return 5

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        for rows in torch.arange(20).split(4)[start:]:
            yield Batch(torch.sin(rows[:, None] * torch.arange(1.0, 6.0)), rows % 3, rows)


def teacher(batch: Batch) -> Outputs:
    return Outputs(torch.cos(batch.index[:, None] * torch.arange(1.0, 4.0)))


def fresh(module: ModuleType = engine) -> Any:
    torch.manual_seed(4)
    terms = {"task": CrossEntropy(), "prepare": Prepare(), "kd": KD()}
    made = learner.Learner(Tapped(nn.Linear(5, 3)), terms, {"task": 1.0, "prepare": 2.0, "kd": 0.5})
    return module.Training(made, torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9), "cpu", "fp32", None)


def recipe(module: ModuleType, **changes: Any) -> Any:
    return module.Recipe(2, lambda step, steps: 1 - step / steps, "cpu", "fp32", seed=1, report_every=1, **changes)


def run(module: ModuleType, stop_after: int | None = None) -> tuple[Any, list[Any]]:
    """The training after ten updates; cut off after some of them, it is gone on with in another object."""
    training, reports = fresh(module), []
    if stop_after is not None:
        updates = iter(range(1, 100))
        stop = lambda: next(updates) == stop_after  # noqa: E731
        reports += list(module.fit(training, teacher, Batches(), recipe(module), stop))
        state, training = training.state_dict(), fresh(module)
        training.load_state_dict(state)
    reports += list(module.fit(training, teacher, Batches(), recipe(module)))
    return training, reports


def test_each_phase_has_its_terms_its_schedule_and_nothing_of_the_one_before() -> None:
    training = fresh()
    head = training.learner.student.model.weight.detach().clone()
    seen, rates = [], []
    for report in engine.fit(training, teacher, Batches(), recipe(engine)):
        alone = report.step <= 4 and report.epoch == 0
        seen.append(set(report.metrics) & {"loss/task", "loss/prepare", "loss/kd"})
        rates.append(report.lr)
        weights = {name: training.learner.weight(name) for name in training.learner.weights}
        assert weights == ({"task": 0, "prepare": 2.0, "kd": 0} if alone else {"task": 1.0, "prepare": 0, "kd": 0.5})
        assert training.phase == (0 if alone else 1)
        adapter = training.learner.terms["prepare"].adapter.weight
        assert (adapter in training.optimizer.state) == alone, "the second phase begins with a new memory"
    assert seen[:4] == [{"loss/prepare"}] * 4
    assert seen[5:] == [{"loss/task", "loss/kd"}] * 5
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025, *(0.1 * (1 - step / 6) for step in range(6))])
    assert not torch.equal(head, training.learner.student.model.weight)


def check_that_going_on_is_the_same(module: ModuleType, stop_after: int) -> None:
    whole, told = run(module)
    halves, told_again = run(module, stop_after)
    assert [report.metrics for report in told] == [report.metrics for report in told_again]
    before, after = whole.state_dict(), halves.state_dict()
    assert before["phase"] == after["phase"] == 1
    assert all(torch.equal(before["learner"][key], after["learner"][key]) for key in before["learner"])


@pytest.mark.parametrize("stop_after", [2, 4, 7])
def test_a_training_goes_on_in_the_phase_in_which_it_was_cut_off(stop_after: int) -> None:
    """In the first phase, at its end, and in the second."""
    check_that_going_on_is_the_same(engine, stop_after)


def test_a_phase_that_is_forgotten_is_noticed() -> None:
    said = 'self.epoch, self.step, self.phase = state["epoch"], state["step"], state["phase"]'
    forgetful = mutated(engine, said, 'self.epoch, self.step = state["epoch"], state["step"]')
    with pytest.raises((AssertionError, KeyError)):
        check_that_going_on_is_the_same(forgetful, 7)


# ------------------------------------------------------------------------------------------------------ gradient norms


def check_norms(module: ModuleType) -> None:
    training = fresh(module)
    training.learner.progress(0.5)
    batch = next(Batches().epoch(0))
    _, losses = training.learner(batch, teacher(batch))
    found = module._gradient_norms(training, losses)
    assert found.keys() == {"gradient/task", "gradient/kd"}
    for name, loss in losses.items():
        grads = torch.autograd.grad(loss, list(training.learner.student.parameters()), retain_graph=True)
        squares = sum(value**2 for grad in grads for value in grad.flatten().tolist())
        assert found[f"gradient/{name}"].item() == pytest.approx(squares**0.5, rel=1e-5)


def test_the_length_of_each_gradient_is_measured_and_changes_nothing() -> None:
    check_norms(engine)
    with pytest.raises(AssertionError):
        check_norms(mutated(engine, "*squares]).sum().sqrt()", "*squares]).sum()"))
    weights, keys = [], []
    for every in (1, 1000, None):
        training = fresh()
        reports = list(engine.fit(training, teacher, Batches(), recipe(engine, norms_every=every)))
        weights.append(training.learner.state_dict())
        keys.append([[key for key in one.metrics if key.startswith("gradient/")] for one in (reports[0], reports[-1])])
    assert all(torch.equal(weights[0][key], other[key]) for other in weights for key in weights[0])
    first, last = ["gradient/prepare"], ["gradient/task", "gradient/kd"]
    assert keys == [[first, last], [first, []], [[], []]], "counted over the whole training, the first step included"


# ----------------------------------------------------------------------------------------------------- early stopping


def check_patience(module: ModuleType) -> None:
    """Three epochs without a better validation end a training of patience 3, but not in the first phase."""
    training = fresh()
    config = {"early_stopping": {"patience": 3}}
    course = module.Course(None, None, config, training, None, None, measured=4, best=0)
    training.learner.progress(0.5)
    assert course.exhausted
    training.learner.progress(0.3)
    assert not course.exhausted


def test_early_stopping_waits_for_the_last_phase() -> None:
    check_patience(optimise)
    with pytest.raises(AssertionError):
        check_patience(mutated(optimise, "not preparing and ", ""))


def test_what_is_no_tensor_in_a_state_is_compared_by_its_kind() -> None:
    """As the extra state that a module of somebody's own may have."""
    engine.refuse_other_tensors({"a": torch.ones(2), "extra": {"x": 1}}, {"a": torch.zeros(2), "extra": {}}, "learner")
    with pytest.raises(ValueError, match="others or ones of another shape: extra"):
        engine.refuse_other_tensors({"a": torch.ones(2), "extra": 1}, {"a": torch.zeros(2), "extra": {}}, "learner")
