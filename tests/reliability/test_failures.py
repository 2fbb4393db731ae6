"""What fails while a run goes on: one line, the right exit code, and what was saved stays."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdrun import engine
from kdrun.records import checkpoints
from kdrun.records.seal import TAIL, sealed
from tests.conftest import ROOT, Answer
from tests.reliability import children
from tests.reliability.test_signals import streamed, wait_for

Command = Callable[..., Answer]
WORDS = ["train", "model=cnn_tiny", "epochs=3", "dataset.limit=64", "device=cpu", "run_dir=X", "checkpoint.every=1"]


def expect_one_line(answer: Any, code: int, *said: str) -> None:
    assert answer.code == code, answer.err
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith("kdrun: ")
    for words in said:
        assert words in answer.err


def in_epoch(number: int, do: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something instead of the first step of an epoch; an epoch has 2 of them here."""
    steps, original = itertools.count(), engine._backward

    def step(*words: Any) -> Any:
        outputs, losses = original(*words)
        return (outputs, do() or losses) if next(steps) == 2 * number else (outputs, losses)

    monkeypatch.setattr(engine, "_backward", step)


def test_a_loss_that_is_not_finite_leaves_the_last_finite_state(
    kdrun: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_epoch(1, lambda: {"loss/task": torch.tensor(float("nan")), "loss": torch.tensor(float("nan"))}, monkeypatch)
    expect_one_line(kdrun(*WORDS), 1, "loss/task became nan in epoch 2 by step 2 of 2, learning rate", "try a lower")
    state = checkpoints.load(Path("X/checkpoints/last.pt"))["training"]
    assert state["epoch"] == 1
    assert all(value.isfinite().all() for value in state["learner"].values())
    assert json.loads(Path("X/run.json").read_text())["status"] == "failed"
    assert kdrun("resume", "X").code == 0, "the next attempt had no such step"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_out_of_memory_comes_with_advice(kdrun: Command, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def exhausted() -> None:
        raise error

    in_epoch(1, exhausted, monkeypatch)
    expect_one_line(kdrun(*WORDS), 1, "out of memory: lower batch_size", "device.precision=bf16")
    assert checkpoints.load(Path("X/checkpoints/last.pt"))["training"]["epoch"] == 1


def test_an_allocation_that_really_fails_comes_with_advice(kdrun: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    in_epoch(0, lambda: torch.empty(2**55), monkeypatch)
    expect_one_line(kdrun(*WORDS), 1, "out of memory: lower batch_size")


def killed_worker() -> None:
    """The second epoch's images kill the process that reads them, as a system short of memory does."""
    from kdrun.datasets.raw import Files

    original, reader = Files.__getitem__, os.getpid()

    def read(self: Any, rows: Any) -> Any:
        if os.getpid() != reader and Path("X/metrics.jsonl").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, rows)

    Files.__getitem__ = read  # type: ignore[method-assign]


def test_a_worker_that_is_killed_ends_the_run_in_one_line(tmp_path: Path) -> None:
    from kdrun.config import stage_config

    words = ["train", *streamed(tmp_path, 2), "run_dir=X"]
    here = tmp_path / "here"
    here.mkdir()
    ending = children.run(here, words, stage_config("train", words[1:]), None, "kill", killed_worker)
    expect_one_line(ending, 1, "a process that reads images has died", "lower batch_size or dataset.workers")


# ----------------------------------------------------------------------------------------------------- going on


def interrupted(kdrun: Command, *more: str) -> Answer:
    """A run that was cut off after its first epoch."""
    with pytest.MonkeyPatch.context() as patch:
        in_epoch(1, lambda: signal.raise_signal(signal.SIGTERM), patch)
        return kdrun(*WORDS, *more)


def test_a_command_may_be_given_again_and_again(kdrun: Command) -> None:
    assert interrupted(kdrun, "resume=auto").code == 143
    done = kdrun(*WORDS, "resume=auto")
    assert (done.code, done.err) == (0, "")
    before = Path("X/run.json").read_bytes()
    again = kdrun(*WORDS, "resume=auto")
    assert again.code == 0
    assert "is completed: there is nothing to go on with" in again.out
    assert Path("X/run.json").read_bytes() == before
    assert kdrun("resume", "X").code == 0


def test_without_a_run_dir_the_run_of_the_same_config_is_gone_on_with(kdrun: Command) -> None:
    words = [word for word in WORDS if not word.startswith("run_dir=")]
    with pytest.MonkeyPatch.context() as patch:
        in_epoch(1, lambda: signal.raise_signal(signal.SIGTERM), patch)
        assert kdrun(*words, "resume=auto").code == 143
    done = kdrun(*words, "resume=auto")
    assert (done.code, done.err) == (0, "")
    assert "attempt 2" in (done.run / "log.txt").read_text()
    again = kdrun(*words, "resume=auto")
    assert "is completed: there is nothing to go on with" in again.out
    assert len(list(Path("outputs/train").iterdir())) == 1
    assert kdrun(*words).run != done.run, "without it, a run is made anew"


def test_damaged_runs_of_the_same_name_keep_nobody_from_a_sound_one(kdrun: Command) -> None:
    words = [word for word in WORDS if not word.startswith("run_dir=")]
    done = kdrun(*words).run
    info = json.loads((done / "run.json").read_text())
    for number, content in enumerate(
        ["[]", "{", {"format": 1}, {**info, "status": ["completed"]}, {**info, "data": 7}]
    ):
        damaged = done.parent / f"z{number}_{info['fingerprint'][:8]}"
        damaged.mkdir()
        (damaged / "run.json").write_text(content if isinstance(content, str) else json.dumps(content))
    linked = done.parent / f"zz_{info['fingerprint'][:8]}"
    shutil.copytree(done, linked)
    (linked / "run.json").write_text(json.dumps({**info, "status": "interrupted"}))
    (linked / "notes").symlink_to("/etc/hostname")
    again = kdrun(*words, "resume=auto")
    assert (again.code, again.err) == (0, "")
    assert f"run {done} is completed: there is nothing to go on with" in again.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=mlp"], "changed: model.kind (cnn is now mlp)"),
        (["optimizer.lr=0.5"], "changed: optimizer.lr (0.03 is now 0.5)"),
        (["epochs=9", "seed=4"], "seed (0 is now 4)"),
    ],
)
def test_another_experiment_does_not_go_on_with_a_run(kdrun: Command, words: list[str], said: str) -> None:
    interrupted(kdrun)
    before = {file: file.read_bytes() for file in Path("X").rglob("*") if file.is_file()}
    expect_one_line(kdrun(*WORDS, "resume=auto", *words), 2, "another experiment", said)
    assert {file: file.read_bytes() for file in Path("X").rglob("*") if file.is_file()} == before


STRANGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "KeyError: 'choice'": lambda state: {},
    "holds a list": lambda state: [7],
    "epoch 99 of 3": lambda state: state["training"].update(epoch=99),
    "'epoch': -5": lambda state: state["training"].update(epoch=-5),
    "step 7 of 2": lambda state: state["training"].update(step=7),
    "learner lacks tensors": lambda state: state["training"]["learner"].popitem(),
    "learner lacks tensors, or has others": lambda state: state["training"]["learner"].update(x=1),
    "parameter group": lambda state: state["training"]["optimizer"]["param_groups"].clear(),
    "KeyError: 'param_groups'": lambda state: state["training"].update(optimizer={"state": 1}),
    "not what is saved as best": lambda state: state["choice"].update(best="first"),
    "weights lacks tensors": lambda state: state["choice"]["weights"].clear(),
    "not what is saved as history": lambda state: state["history"].append(7),
    "not JSON serializable": lambda state: state["history"].append({"epoch": torch.ones(1)}),
    "over so many samples": lambda state: state["training"]["means"]["samples"].update(loss=0),
    "means lacks tensors": lambda state: state["training"]["means"].update(sums={"x": 1}, samples={"x": 1}),
    "unexpected keyword": lambda state: state.update(unmeasured={"x": 1}),
}


def sealed_file(path: Path, content: Any) -> None:
    """Anything, its checksum right: whoever can write a file can sign it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(sealed(buffer.getvalue()[:-2] + TAIL.to_bytes(2, "little")))


@pytest.mark.parametrize("said", STRANGE)
def test_a_whole_state_that_is_not_this_training_s_is_passed_over(kdrun: Command, said: str) -> None:
    interrupted(kdrun)
    last = Path("X/checkpoints/last.pt")
    state = checkpoints.load(last)
    changed = STRANGE[said](state)
    sealed_file(last, changed if changed in ({}, [7]) else state)
    shutil.copytree("X", "Y")
    shutil.copy("Y/checkpoints/last.pt", "Y/checkpoints/previous.pt")
    assert kdrun("resume", "X").code == 0
    assert "going on from X/checkpoints/previous.pt instead" in Path("X/log.txt").read_text()
    answer = kdrun("resume", "Y")
    assert answer.code == 1
    for words in ("kdrun: checkpoint Y/checkpoints/last.pt", said, "nothing is left to go on from"):
        assert words in answer.err.splitlines()[-1]
    assert "Traceback" not in answer.err


def begun(folder: Path) -> None:
    """What an attempt leaves that was killed before its `run.json`."""
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("log.txt", "code.diff", ".run.json.some-host.712.part"):
        (folder / name).write_text("")
    (folder / "config.yaml").write_text("stage: train\n")


def test_links_that_a_logger_makes_in_its_own_folder_are_its_own(kdrun: Command, tmp_path: Path) -> None:
    interrupted(kdrun)
    (tmp_path / "core.log").write_text("wandb keeps its logs for all runs in one place")
    Path("X/wandb/run/logs").mkdir(parents=True)
    Path("X/wandb/run/logs/debug-core.log").symlink_to(tmp_path / "core.log")
    assert kdrun("resume", "X").code == 0


def test_what_was_killed_before_it_had_begun_is_begun_again(kdrun: Command) -> None:
    begun(Path("X"))
    assert kdrun(*WORDS, "resume=auto").code == 0
    assert not list(Path("X").glob(".*.part"))


@pytest.mark.parametrize(
    "mine",
    [
        ("log.txt", "my own words"),
        ("config.yaml", "lr: 0.1"),
        ("metrics.jsonl", "1"),
        ("checkpoints/model.pt", "my weights"),
        (".draft.part", "half a page"),
        ("run.json", '{"mine": 1}'),
    ],
    ids=lambda mine: str(mine[0]),
)
def test_a_folder_that_is_no_run_is_not_gone_on_with(kdrun: Command, mine: tuple[str, str]) -> None:
    begun(Path("X"))
    Path("X", mine[0]).write_text(mine[1])
    before = {file: file.read_bytes() for file in Path("X").rglob("*") if file.is_file()}
    expect_one_line(kdrun(*WORDS, "resume=auto"), 2, "X")
    assert {file: file.read_bytes() for file in Path("X").rglob("*") if file.is_file()} == before


def test_what_cannot_be_gone_on_with_says_why(kdrun: Command, tmp_path: Path) -> None:
    interrupted(kdrun)
    expect_one_line(kdrun("resume", "nowhere"), 2, "nowhere is not a run directory")
    expect_one_line(kdrun("resume"), 2, "usage: kdrun resume <run directory or sweep directory>")
    expect_one_line(kdrun(*WORDS), 2, "run_dir=X exists and is not empty", "resume=auto")
    expect_one_line(kdrun("evaluate", "X"), 2, "run X is interrupted, not completed", "`kdrun resume X`")
    info = Path("X/run.json").read_text()
    Path("X/run.json").write_text(info.replace('"attempts"', '"tries"'))
    expect_one_line(kdrun(*WORDS, "resume=auto"), 1, "run.json is not whole", "attempts")
    Path("X/run.json").write_text(info)
    config = Path("X/config.yaml")
    config.write_text(config.read_text().replace("epochs: 3", "epochs: many"))
    expect_one_line(kdrun("resume", "X"), 2, "epochs")


def test_a_run_that_was_killed_is_listed_as_interrupted(tmp_path: Path, kdrun: Command) -> None:
    from kdrun.config import stage_config

    words = ["train", "model=cnn_tiny", "epochs=100000", "device=cpu"]
    child = children.start(tmp_path, words, stage_config("train", words[1:]))
    wait_for(lambda: list(tmp_path.glob("outputs/train/*/metrics.jsonl")))
    assert "running" in kdrun("list", "runs").out
    os.kill(child.pid, signal.SIGKILL)
    assert children.ended(child, tmp_path).code == -9
    assert "interrupted" in kdrun("list", "runs").out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device on which nothing can be written")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["at the end", "at once"])
def test_output_for_which_there_is_no_room_costs_one_line(unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(
            [sys.executable, "-m", "kdrun", "list", "models"],
            cwd=ROOT,
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (answer.returncode, answer.stderr) == (1, "kdrun: standard output: No space left on device\n")


def test_a_standard_output_that_is_closed_is_no_mistake() -> None:
    command = f"exec {sys.executable} -m kdrun list losses >&-"
    answer = subprocess.run(["sh", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
