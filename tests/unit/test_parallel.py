"""How a batch is dealt, how a part is weighed, what the processes of a run tell each other: without starting any."""

from __future__ import annotations

import json
import platform
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from kdrun import parallel, processes, stopping
from kdrun.datasets.loader import deal
from kdrun.errors import KdrunError, UsageError
from kdrun.launch import _error
from kdrun.types import Batch, Part
from tests.conftest import Answer


@pytest.fixture
def member(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """As if torch's launcher had started this process as one of several."""

    def become(number: int, several: int) -> None:
        for key, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": several, "RANK": number}.items():
            monkeypatch.setenv(key, str(value))

    return become


@pytest.mark.parametrize("several", [2, 3, 4, 7, 64])
def test_the_parts_of_a_batch_are_the_batch(member: Callable[[int, int], None], several: int) -> None:
    for size in range(2, 70):
        batch = torch.randperm(size)
        parts = []
        for number in range(several):
            member(number, several)
            rows, part = deal(batch)
            assert part is not None
            held = Batch(rows, rows, rows, part=part)
            assert held.whole == size
            assert held.own != 1, "batch norm cannot train on one sample"
            assert len(held) >= 2, "a process without samples still has to compute"
            parts.append(rows[: held.own])
            sizes = part.sizes
        assert torch.cat(parts).equal(batch)
        assert max(sizes) <= max(3, -(-size // several) + 1)


def test_one_process_has_the_batch_as_it_is() -> None:
    batch = torch.randperm(5)
    rows, part = deal(batch)
    assert rows is batch
    assert part is None
    loss = torch.ones((), requires_grad=True)
    assert parallel.weighed(loss, Batch(rows, None, rows)) is loss
    learner = nn.Linear(1, 1)
    assert parallel.parallel(learner, phases=True) is learner


def test_the_average_over_parts_is_the_gradient_of_the_batch() -> None:
    """DDP's average, by hand, over parts of 3, 2 and none."""
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)
    inputs, rows = torch.randn(5, 4, dtype=torch.float64), torch.arange(5)
    (expected,) = torch.autograd.grad((inputs @ weight).square().mean(), weight)
    found, naive = [], []
    for number, own in enumerate([rows[:3], rows[3:], rows[:2]]):
        batch = Batch(inputs[own], None, own, part=Part(number, (3, 2, 0)))
        loss = (batch.inputs @ weight).square().mean()
        weighed = parallel.weighed(loss, batch)
        assert torch.allclose(weighed, loss)
        found.append(torch.autograd.grad(weighed, weight, retain_graph=True)[0])
        naive.append(torch.autograd.grad(loss, weight)[0])
    assert torch.allclose(torch.stack(found).mean(0), expected, rtol=1e-12)
    assert not torch.allclose(torch.stack(naive).mean(0), expected, rtol=1e-3)


def test_each_process_has_dropout_of_its_own_and_all_go_on_with_the_same_numbers() -> None:
    masks, after = [], []
    for number in range(3):
        torch.manual_seed(5)
        with parallel.own_numbers(Batch(torch.ones(2), None, torch.arange(2), part=Part(number, (2, 2, 2)))):
            masks.append(torch.rand(100))
        after.append(torch.rand(4))
    assert len({tuple(mask.tolist()) for mask in masks}) == 3
    torch.manual_seed(5)
    alone = torch.rand(100)
    assert masks[0].equal(alone)
    torch.manual_seed(5)
    assert all(one.equal(after[0]) for one in after)
    assert after[0].equal(torch.rand(4))


@pytest.mark.parametrize("several", [1, 2, 3, 8])
def test_shares_of_a_list_are_the_list(member: Callable[[int, int], None], several: int) -> None:
    for length in range(20):
        shares = []
        for number in range(several):
            member(number, several)
            shares.append(list(processes.mine(range(length))))
        assert [item for share in shares for item in share] == list(range(length))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_batch_norms_are_told_apart() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.GroupNorm(1, 2))
    assert len(parallel.norms(network)) == 1
    assert parallel.kind_of_norms(network) == "local"
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert parallel.kind_of_norms(converted) == "synchronised"
    assert converted.state_dict().keys() == network.state_dict().keys()


def test_alone_a_process_tells_itself() -> None:
    assert processes.told(lambda: 3) == 3
    assert processes.everyone("a") == ["a"]
    assert processes.joined([1, 2]) == [1, 2]
    processes.agreed("experiment", "abc")
    with pytest.raises(UsageError, match="no such"), processes.watched():
        raise UsageError("no such")


@pytest.mark.parametrize("number", [0, 1])
def test_torchrun_with_a_sweep_is_refused_with_the_command_to_use(
    kdrun: Callable[..., Answer], member: Callable[[int, int], None], number: int
) -> None:
    member(number, 2)
    answer = kdrun("distill", "-m", "seed=1,2")
    said = "kdrun: torchrun starts the processes of one run, and -m is several runs; use: "
    said += "kdrun distill -m seed=1,2 launch.processes=2\n"
    assert (answer.code, answer.err) == (2, "" if number else said)
    assert kdrun("report").code == 2


@pytest.mark.parametrize("name", ["sweep.json", "tune.json"])
def test_a_sweep_is_gone_on_with_by_one_process(
    kdrun: Callable[..., Answer], member: Callable[[int, int], None], name: str
) -> None:
    Path("many").mkdir()
    Path("many", name).write_text("{}")
    several = kdrun("resume", "many", "launch.processes=2")
    assert (several.code, several.err.count("\n")) == (2, 1)
    assert "leave it out" in several.err
    member(0, 2)
    started = kdrun("resume", "many")
    assert (started.code, started.err.count("\n")) == (2, 1)
    assert "use: kdrun resume many" in started.err


def test_no_file_says_that_hundreds_of_processes_are_started(kdrun: Callable[..., Answer]) -> None:
    Path("run").mkdir()
    info = {"format": 1, "status": "completed", "fingerprint": "f", "device": {"processes": 900}}
    Path("run", "run.json").write_text(json.dumps(info))
    answer = kdrun("reproduce", "run")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "launch.processes=1 --tolerance" in answer.err


def test_who_is_left_says_that_the_first_process_is_gone(
    member: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """… one on each machine; also where the store of the launcher went with it."""

    def broken() -> None:
        raise RuntimeError("Broken pipe")

    monkeypatch.setattr(processes, "_members", [("there", 1), ("there", 2), ("here", 3), ("here", 4)])
    monkeypatch.setattr(processes, "_store", broken)
    said = {}
    for number, host in enumerate(["there", "there", "here", "here"]):
        monkeypatch.setattr(processes, "_gone", [])
        monkeypatch.setattr(platform, "node", lambda host=host: host)
        member(number, 4)
        assert processes.speaks() == (number == 0)
        with (
            pytest.raises(KdrunError, match=f"cannot reach {'process 0' if number else 'the others'}"),
            processes.watched(),
        ):
            raise RuntimeError("Connection reset by peer")
        said[number] = processes.speaks()
    assert said == {0: True, 1: True, 2: True, 3: False}


def test_a_signal_of_another_process_counts_as_ones_own() -> None:
    stopping.forget()
    assert stopping.received() is None
    stopping.note(signal.SIGUSR1)
    assert stopping.requested()
    with pytest.raises(stopping.Stopped, match="SIGUSR1") as stopped:
        stopping.check()
    assert stopped.value.exit_code == 143
    stopping.forget()


def test_the_errors_of_the_launcher_in_one_line(tmp_path: Path) -> None:
    assert "process 1 of 2 was killed by SIGKILL; `kdrun resume`" in str(_error(tmp_path, "process 1 of 2", -9))
    assert isinstance(_error(tmp_path, "process 1 of 2", 143), stopping.Stopped)
    assert "said nothing" in str(_error(tmp_path, "process 1 of 2", 1))
    (tmp_path / "00001.txt").write_text("batch_size=9 is too much")
    error = _error(tmp_path, "process 1 of 2", 2)
    assert isinstance(error, KdrunError)
    assert (str(error), error.exit_code) == ("batch_size=9 is too much", 2)
