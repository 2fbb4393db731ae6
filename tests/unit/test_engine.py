"""The two loops: what a step does, what an epoch reports, going on from a saved state, evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdrun.engine import Recipe, Report, Training, evaluate, fit, results
from kdrun.errors import KdrunError
from kdrun.learner import Learner
from kdrun.losses.cross_entropy import CrossEntropy
from kdrun.losses.kd import KD
from kdrun.metrics import accuracy
from kdrun.taps import Tapped
from kdrun.types import Batch, Outputs

LABELS = torch.arange(48) % 3
IMAGES = torch.randn(48, 6, generator=torch.Generator().manual_seed(1)) + nn.functional.one_hot(LABELS, 6)


class Loader:
    """Fixed batches; the order is that of the epoch."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return 48 // self.size

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        order = torch.randperm(48, generator=torch.Generator().manual_seed(number))
        for rows in order.split(self.size)[start:]:
            yield Batch(IMAGES[rows], LABELS[rows], rows)


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def training(net: nn.Module, ema: float | None = None, **terms: nn.Module) -> Training:
    parts = {"task": CrossEntropy(), **terms}
    learner = Learner(Tapped(net), parts, dict.fromkeys(parts, 1.0))  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)
    return Training(learner, optimizer, "cpu", "fp32", ema)


def recipe(epochs: int = 3, **options: object) -> Recipe:
    return Recipe(epochs, lambda step, steps: 1 - step / steps, "cpu", "fp32", seed=5, **options)  # type: ignore[arg-type]


def weights(net: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def teacher(batch: Batch) -> Outputs:
    return Outputs(nn.functional.one_hot(LABELS[batch.index], 3) * 4.0)


def test_training_lowers_the_loss_and_reports_the_end_of_every_epoch() -> None:
    reports = list(fit(training(network()), teacher, Loader(8), recipe(8)))  # type: ignore[arg-type]
    finished = [report for report in reports if report.finished]
    assert [report.epoch for report in finished] == list(range(8))
    assert finished[-1].metrics["loss/task"] < 0.7 * finished[0].metrics["loss/task"]
    assert finished[-1].metrics["accuracy"] > finished[0].metrics["accuracy"]


def test_a_step_is_that_of_the_bare_loop() -> None:
    net, reference = network(), network()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    step = 0
    for epoch in range(2):
        for batch in Loader(8).epoch(epoch):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 12)
            target = teacher(batch).logits
            logits = reference(batch.inputs)
            loss = nn.functional.cross_entropy(logits, batch.targets)  # type: ignore[arg-type]
            log_student, soft = (logits / 4).log_softmax(1), (target / 4).softmax(1)
            loss = loss + 16 * (soft * (soft.log() - log_student)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    list(fit(training(net, kd=KD(4.0)), teacher, Loader(8), recipe(2)))  # type: ignore[arg-type]
    torch.testing.assert_close(weights(net), weights(reference), rtol=1e-5, atol=1e-6)


def test_accumulated_batches_are_one_large_batch() -> None:
    def last(size: int, accumulate: int) -> Tensor:
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))  # no batch norm: it sees each batch alone
        constant = Recipe(2, lambda step, steps: 1.0, "cpu", "fp32", 5, accumulate=accumulate)
        list(fit(training(net), None, Loader(size), constant))  # type: ignore[arg-type]
        return weights(net)

    torch.testing.assert_close(last(4, 4), last(16, 1), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(last(4, 1), last(16, 1), rtol=1e-3)


def test_an_incomplete_group_of_batches_is_averaged_too() -> None:
    """12 batches in groups of 5: the last group has 2, and weighs as much per sample as any other."""
    net = nn.Linear(6, 3)
    seen: list[float] = []
    trained = training(net)
    trained.optimizer.register_step_post_hook(lambda *_: seen.append(1.0))
    list(fit(trained, None, Loader(4), recipe(1, accumulate=5)))  # type: ignore[arg-type]
    assert len(seen) == 3


def test_going_on_from_a_saved_state_gives_the_same_bits_dropout_and_average_included() -> None:
    whole = training(network(0.3), ema=0.9)
    list(fit(whole, teacher, Loader(8), recipe(4)))  # type: ignore[arg-type]
    first = training(network(0.3), ema=0.9)
    state = None
    for report in fit(first, teacher, Loader(8), recipe(4)):  # type: ignore[arg-type]
        if report.finished and report.epoch == 1:
            state = first.state_dict()
            break
    assert state is not None
    second = training(network(0.3), ema=0.9)
    torch.randn(7)  # whatever else draws random numbers in the new process
    second.load_state_dict(state)
    list(fit(second, teacher, Loader(8), recipe(4)))  # type: ignore[arg-type]
    assert torch.equal(weights(second.learner), weights(whole.learner))
    assert torch.equal(weights(second.student), weights(whole.student))


@pytest.mark.parametrize("asked_after", [1, 2, 5, 6, 7, 14])
def test_stopping_in_mid_epoch_leaves_a_state_from_which_the_same_bits_follow(asked_after: int) -> None:
    """6 batches an epoch, 4 batches an update, hence updates after 4 and 6: half an update is never left."""

    def run(asked: int | None = None, state: dict[str, Any] | None = None) -> tuple[Training, list[Report]]:
        trained = training(network(0.3), ema=0.9)
        torch.randn(7 if state else 3)
        if state is not None:
            trained.load_state_dict(state)
        seen: list[int] = []
        trained.optimizer.register_step_post_hook(lambda *_: seen.append(1))
        stop = lambda: asked is not None and 4 * len(seen) >= asked  # noqa: E731
        reports = fit(trained, teacher, Loader(8), recipe(3, accumulate=4), stop)  # type: ignore[arg-type]
        return trained, list(reports)

    whole, all_reports = run()
    cut, reports = run(asked_after)
    assert reports[-1].stopped
    assert cut.step == 4, "and not after 1, 2 or 5"
    again, later = run(state=cut.state_dict())
    assert torch.equal(weights(again.learner), weights(whole.learner))
    assert torch.equal(weights(again.student), weights(whole.student))
    told = [report for report in reports + later if report.finished]
    assert told == [report for report in all_reports if report.finished], "the means of the cut epoch are the same too"


def test_a_loss_that_is_not_finite_is_named_with_epoch_step_and_rate() -> None:
    def broken(batch: Batch) -> Outputs:
        return Outputs(torch.full((len(batch), 3), torch.nan))

    with pytest.raises(KdrunError, match=r"loss/kd became nan in epoch 1 by step 1 of 1, learning rate"):
        list(fit(training(network(), kd=KD()), broken, Loader(48), recipe(1)))  # type: ignore[arg-type]


def test_gradients_are_clipped_to_the_norm() -> None:
    net = nn.Linear(6, 3)
    norms: list[float] = []
    trained = training(net)

    def look(*_: object) -> None:
        norms.append(nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None]).item())

    trained.optimizer.register_step_pre_hook(look)
    list(fit(trained, None, Loader(8), recipe(1, grad_clip=0.01)))  # type: ignore[arg-type]
    assert norms
    assert max(norms) <= 0.0101


def test_evaluation_is_in_eval_mode_and_leaves_gradients_and_statistics_alone() -> None:
    tapped = Tapped(network(0.5))
    before = {key: value.clone() for key, value in tapped.state_dict().items()}
    batches = [Batch(IMAGES[rows], LABELS[rows], rows) for rows in torch.arange(48).split(10)]
    metrics = {"accuracy": accuracy}
    told = [results(evaluate(tapped, batches, metrics, ("cpu", "fp32")), metrics) for _ in range(2)]
    assert told[0] == told[1]
    assert all(torch.equal(before[key], value) for key, value in tapped.state_dict().items())
    expected = (tapped.model(IMAGES).argmax(1) == LABELS).float().mean().item()
    assert told[0]["accuracy"] == pytest.approx(expected)
