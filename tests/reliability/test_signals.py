"""Whoever asks a run to stop, and when: it ends soon, says so, and can be gone on with."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdrun import cli, composition, stopping
from kdrun.config import stage_config
from kdrun.errors import UsageError
from kdrun.stages.resume import resume
from tests.conftest import Answer, mutated
from tests.reliability import children
from tests.reliability.test_resume import picture_folder

Command = Callable[..., Answer]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
LONG = ["model=cnn_tiny", "epochs=100000", "device=cpu", "device.threads=1"]


def wait_for(happened: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def streamed(folder: Path, workers: int) -> list[str]:
    pictures = picture_folder(folder / "pictures")
    data = ["dataset=image_folder", f"dataset.path={pictures}", "dataset.size=12", "dataset.cache_gb=0"]
    return [*LONG, *data, "batch_size=4", f"dataset.workers={workers}"]


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize(("workers", "group"), [(0, False), (2, True)], ids=["alone", "group-with-workers"])
def test_a_training_that_is_signalled_saves_and_ends(
    number: signal.Signals, workers: int, group: bool, tmp_path: Path
) -> None:
    words = ["train", *(streamed(tmp_path, workers) if workers else LONG), "run_dir=X"]
    here = tmp_path / "here"
    here.mkdir()
    child = children.start(here, words, stage_config("train", words[1:]))
    wait_for(lambda: (here / "X" / "metrics.jsonl").exists())
    begin = time.monotonic()
    (os.killpg if group else os.kill)(child.pid, number)
    ending = children.ended(child, here)
    assert time.monotonic() - begin < 10
    assert (ending.code, ending.err) == (CODES[number], f"kdrun: interrupted by {number.name}\n")
    assert "kdrun resume X" in ending.out
    assert json.loads((here / "X" / "run.json").read_text())["status"] == "interrupted"
    assert (here / "X" / "checkpoints" / "last.pt").exists()


def test_an_evaluation_that_is_signalled_ends_at_once(tmp_path: Path) -> None:
    """The stage's final measurements, reached through a state whose training is done."""
    words = ["train", "model=cnn_tiny", "epochs=1", "dataset.limit=60", "run_dir=X", "resume=auto", "device=cpu"]
    child = children.start(tmp_path, words, stage_config("train", words[1:]), None, "kill", slow_measuring)
    wait_for(lambda: (tmp_path / "X" / "checkpoints" / "model.pt").exists())
    os.kill(child.pid, signal.SIGTERM)
    assert children.ended(child, tmp_path, 10).code == 143
    resume(tmp_path / "X")
    assert json.loads((tmp_path / "X" / "run.json").read_text())["status"] == "completed"


def slow_measuring() -> None:
    from kdrun.stages import train

    train.known_quality = lambda *_, **__: time.sleep(60)  # type: ignore[assignment, misc]


def slow_evaluation() -> None:
    """Pictures take half a second to read as soon as something is evaluated: what is signalled is the evaluation."""
    from kdrun.datasets.loader import PlainLoader
    from kdrun.datasets.raw import Files

    begin, read = PlainLoader.__iter__, Files.__getitem__

    def noted(self: Any) -> Any:
        Path("evaluating").touch()
        return begin(self)

    def slowly(self: Any, rows: Any) -> Any:
        time.sleep(0.5 if Path("evaluating").exists() else 0)
        return read(self, rows)

    PlainLoader.__iter__, Files.__getitem__ = noted, slowly  # type: ignore[method-assign]


FEW = {(signal.SIGTERM, 2, "evaluate"), (signal.SIGINT, 2, "validation")}
EVALUATIONS = [
    pytest.param(
        number, workers, group, what, marks=[] if (number, workers, what) in FEW and group else pytest.mark.slow
    )
    for number in CODES
    for workers, group in ((0, False), (2, False), (2, True))
    for what in ("evaluate", "validation")
]


@pytest.mark.parametrize(("number", "workers", "group", "what"), EVALUATIONS)
def test_an_evaluation_of_streamed_pictures_that_is_signalled_can_be_gone_on_with(
    number: signal.Signals, workers: int, group: bool, what: str, tmp_path: Path
) -> None:
    """`kdrun evaluate`, and the validation after a training's epoch."""
    here = tmp_path / "here"
    here.mkdir()
    words = [*streamed(tmp_path, workers), "epochs=1"]
    if what == "evaluate":
        assert children.run(here, ["train", *words], stage_config("train", [*words, "run_dir=M"])).code == 0
        words = ["run=M", "device=cpu", "device.threads=1"]
    command = ["evaluate" if what == "evaluate" else "train", *words, "run_dir=X"]
    config = stage_config(command[0], command[1:])
    child = children.start(here, command, config, None, "kill", slow_evaluation)
    wait_for(lambda: (here / "evaluating").exists())
    begin = time.monotonic()
    (os.killpg if group else os.kill)(child.pid, number)
    ending = children.ended(child, here)
    assert time.monotonic() - begin < 10
    assert (ending.code, ending.err) == (CODES[number], f"kdrun: interrupted by {number.name}\n")
    assert json.loads((here / "X" / "run.json").read_text())["status"] == "interrupted"
    assert children.run(here, ["resume", "X"]).code == 0
    assert json.loads((here / "X" / "run.json").read_text())["status"] == "completed"


FILLINGS = [
    pytest.param(number, workers, marks=[] if (number, workers) == (signal.SIGTERM, 0) else pytest.mark.slow)
    for number in CODES
    for workers in (0, 2)
]


@pytest.mark.parametrize(("number", "workers"), FILLINGS)
def test_filling_a_store_that_is_signalled_ends_at_once_and_goes_on_later(
    number: signal.Signals, workers: int, tmp_path: Path
) -> None:
    """Alone where it reads its images itself, with its whole group where workers do."""
    here = tmp_path / "here"
    here.mkdir()
    data = [word for word in streamed(tmp_path, workers) if word not in LONG] if workers else []
    teacher = ["teacher=cnn_tiny", "teacher.train.epochs=1", "teacher.train.batch_size=4"]
    words = [*teacher, "epochs=20000", "augment=flip", "device=cpu", *data]
    config = stage_config("distill", [*words, "store.max_gb=100"])
    child = children.start(here, ["store", "fill", *words], config)
    wait_for(lambda: list(here.glob("outputs/store/*/view-00003.bin")))
    (os.killpg if workers else os.kill)(child.pid, number)
    ending = children.ended(child, here, 10)
    assert (ending.code, ending.err) == (CODES[number], f"kdrun: interrupted by {number.name}\n")
    before = {file: file.stat().st_mtime_ns for file in here.glob("outputs/store/*/*.bin")}
    again = children.run(here, ["store", "fill", *words], {**config, "epochs": 6})
    assert again.code == 0
    assert all(file.stat().st_mtime_ns == time for file, time in before.items()), "what was there is not made again"


def slow_step() -> None:
    """A step that lasts longer than anybody wants to wait."""
    from kdrun import engine

    engine._update = lambda *_: (Path("slow").touch(), time.sleep(60))  # type: ignore[assignment, misc]


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    words = ["train", *LONG, "run_dir=X"]
    child = children.start(tmp_path, words, stage_config("train", words[1:]), None, "kill", slow_step)
    wait_for(lambda: (tmp_path / "slow").exists())
    os.kill(child.pid, signal.SIGINT)
    time.sleep(0.3)
    assert child.is_alive(), "the first waits for the step"
    os.kill(child.pid, signal.SIGINT)
    assert children.ended(child, tmp_path, 10).code == 130


def attentive_workers() -> None:
    """The mistake: a loader's workers die of the signal that was meant for the run."""
    from kdrun import stopping

    def die(worker: int = 0) -> None:
        for number in stopping.SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    stopping.linger = die  # type: ignore[assignment]


def test_workers_that_die_of_the_signal_are_noticed(tmp_path: Path) -> None:
    words = ["train", *streamed(tmp_path, 2), "run_dir=X"]
    endings = []
    for attempt in range(5):  # at times the signal falls between two epochs, where there are no workers
        here = tmp_path / str(attempt)
        here.mkdir()
        child = children.start(here, words, stage_config("train", words[1:]), None, "kill", attentive_workers)
        wait_for(lambda: (here / "X" / "metrics.jsonl").exists())  # noqa: B023
        os.killpg(child.pid, signal.SIGTERM)
        ending = children.ended(child, here)
        endings.append((ending.code, ending.err))
        if endings[-1] != (143, "kdrun: interrupted by SIGTERM\n"):
            break
    assert endings[-1] != (143, "kdrun: interrupted by SIGTERM\n"), f"the mistake was not noticed: {endings}"


def test_a_signal_while_composing_is_no_mistake_in_the_config(kdrun: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """OmegaConf, cut off in the middle, fails while it tidies up, and Hydra makes an error of its own of that."""

    def signalled(*given: Any, **named: Any) -> Any:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            return composed(*given, **named)
        except KeyboardInterrupt as error:
            raise UsageError("cut off") from error

    composed = composition.composed
    monkeypatch.setattr(composition, "composed", signalled)
    answer = kdrun("train", *LONG, "epochs=1")
    stopping.forget()
    assert (answer.code, answer.err) == (143, "kdrun: interrupted by SIGTERM\n")


SIGNALLED = """
import os, signal

class Named:
    def __set_name__(self, owner, name):  # whatever is raised in here becomes a RuntimeError
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(10_000):
            pass

class Owner:
    named = Named()

whole = True
"""


def imported(name: str) -> None:
    importlib.import_module(name)
    time.sleep(10)


def test_a_signal_while_a_module_is_imported_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python, numpy and torch, cut off in the middle of an import, make errors of their own of it, or abort."""
    for name in ("signalled", "signalled_too"):
        (tmp_path / f"{name}.py").write_text(SIGNALLED)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        stopping.listen()
        with pytest.raises(stopping.Stopped, match="SIGTERM"):
            imported("signalled")
        assert sys.modules["signalled"].whole
        mutated(stopping, "and _importing(frame)", "and False").listen()
        with pytest.raises(RuntimeError, match="__set_name__"):
            importlib.import_module("signalled_too")
    finally:
        stopping.listen()


def test_an_error_that_a_library_makes_of_a_signal_is_none(kdrun: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def disguised(*given: Any) -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt as error:
            raise RuntimeError("something is wrong with a field") from error
        return 0

    monkeypatch.setattr(cli, "dispatch", disguised)
    answer = kdrun("list", "models")
    assert (answer.code, answer.err) == (130, "kdrun: interrupted by SIGINT\n")


def test_a_signal_after_the_work_is_done_changes_nothing() -> None:
    late = "import atexit, os, signal, sys; atexit.register(lambda: os.kill(os.getpid(), signal.SIGUSR1))"
    main = "sys.argv = ['kdrun', 'list', 'losses']; from kdrun.cli import main; sys.exit(main())"
    ended = subprocess.run([sys.executable, "-c", f"{late}; {main}"], capture_output=True, check=False, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
