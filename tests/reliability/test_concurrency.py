"""Several kdruns at once: a directory each, one teacher for all, one writer per run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from kdrun.config import stage_config
from tests.reliability import children
from tests.reliability.test_signals import LONG, wait_for

FEW = ["dataset.limit=60", "device=cpu", "device.threads=1", "batch_size=20"]


def started_at_once(folder: Path, words: list[list[str]], *rest: object) -> list[children.Ending]:
    made = [children.start(folder, one, stage_config(one[0], one[1:]), *rest) for one in words]
    return [children.ended(child, folder) for child in made]


def directories_of(many: int, folder: Path, spoil: Callable[[], None]) -> int:
    """How many directories so many runs of one config have that start at once, and all end well."""
    words = ["train", "model=cnn_tiny", "epochs=1", *FEW]
    endings = started_at_once(folder, [words] * many, None, "kill", spoil)
    runs = list((folder / "outputs" / "train").iterdir())
    whole = all(json.loads((run / "run.json").read_text())["status"] == "completed" for run in runs)
    return len(runs) if whole and [ending.code for ending in endings] == [0] * many else 0


def in_one_second() -> None:
    """The name of a directory has the time to a second: that of all runs is the same."""
    from kdrun.records import run

    class OneSecond(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> OneSecond:
            return cls(2026, 1, 1, tzinfo=tz)

    run.datetime = OneSecond  # type: ignore[misc]


@pytest.mark.parametrize("many", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_runs_that_start_at_once_have_a_directory_each(many: int, tmp_path: Path) -> None:
    assert directories_of(many, tmp_path, in_one_second) == many


def in_one_second_and_in_what_is_there() -> None:
    """The mistake: a directory that another has made is taken for one's own."""
    made = Path.mkdir
    Path.mkdir = lambda self, mode=0o777, parents=False, exist_ok=False: made(self, mode, parents, True)  # type: ignore
    in_one_second()


def test_directories_that_are_not_made_exclusively_are_noticed(tmp_path: Path) -> None:
    assert directories_of(3, tmp_path, in_one_second_and_in_what_is_there) < 3


def four_need_one_teacher(folder: Path, *rest: object) -> int:
    """How many teachers are trained by four distillations that start at once."""
    teacher = ["teacher=cnn_tiny", "teacher.train.epochs=40", "teacher.train.batch_size=20", "baseline=false"]
    words = [["distill", *teacher, *FEW, "epochs=1", f"seed={seed}"] for seed in range(4)]
    assert [ending.code for ending in started_at_once(folder, words, *rest)] == [0] * 4
    assert len(list((folder / "outputs" / "distill").iterdir())) == 4
    return len(list((folder / "outputs" / "train").iterdir()))


def test_four_runs_that_need_one_teacher_train_it_once(tmp_path: Path) -> None:
    assert four_need_one_teacher(tmp_path) == 1


def four_need_one_store(folder: Path, *rest: object) -> int:
    """How many views of a teacher are computed by four distillations that start at once and need three, and the test
    split."""
    teacher = ["teacher=cnn_tiny", "teacher.train.epochs=1", "teacher.train.batch_size=20", "baseline=false"]
    stored = ["teacher.outputs=stored", "augment=flip", "epochs=3"]
    ending = children.run(folder, ["train-teacher", "teacher=cnn_tiny", "epochs=1", *FEW])
    assert ending.code == 0, ending.err
    words = [["distill", *teacher, *FEW, *stored, f"seed={seed}"] for seed in range(4)]
    endings = started_at_once(folder, words, *rest)
    assert [ending.code for ending in endings] == [0] * 4
    return sum(line.startswith("open ") and ".bin" in line for ending in endings for line in ending.operations)


def test_four_runs_that_need_one_store_fill_it_once(tmp_path: Path) -> None:
    assert four_need_one_store(tmp_path) == 3 + 1


def no_lock() -> None:
    """The mistake: everybody looks, finds nothing, and trains. Here all four look before the first one trains."""
    from contextlib import nullcontext

    from kdrun.stages import source, train

    train.one_at_a_time = source.one_at_a_time = lambda *_: nullcontext()  # type: ignore[assignment]
    look = train._before

    def with_the_others(outputs: Path, wanted: str) -> tuple[Path | None, Path | None]:
        found = look(outputs, wanted)
        outputs.mkdir(parents=True, exist_ok=True)
        (outputs / f"looked.{os.getpid()}").touch()
        wait_for(lambda: len(list(outputs.glob("looked.*"))) == 4)
        return found

    train._before = with_the_others


def test_without_a_lock_it_is_trained_by_all(tmp_path: Path) -> None:
    assert four_need_one_teacher(tmp_path, None, "kill", no_lock) == 4


def being_written(folder: Path) -> tuple[Any, list[str], dict[str, Any]]:
    """A child that is at work in `X`, what it was called with, and its config."""
    words = ["train", *LONG, "run_dir=X", "resume=auto"]
    config = stage_config("train", words[1:])
    child = children.start(folder, words, config)
    wait_for(lambda: (folder / "X" / "metrics.jsonl").exists())
    return child, words, config


def test_a_run_that_is_being_written_is_not_gone_on_with_by_another(tmp_path: Path) -> None:
    first, words, config = being_written(tmp_path)
    second = children.run(tmp_path, words, config)
    third = children.run(tmp_path, ["resume", "X"])
    holder = first.pid
    os.kill(holder, signal.SIGTERM)
    assert children.ended(first, tmp_path).code == 143
    for ending in (second, third):
        assert ending.code == 1
        assert f"is being written by process {holder} on " in ending.err
        assert len(ending.err.splitlines()) == 1


def no_lock_of_a_run() -> None:
    """The mistake: whoever comes is let in."""
    from kdrun.records import lock

    lock.take = lambda *_, **__: True  # type: ignore[assignment]


def test_without_its_lock_a_run_is_gone_on_with_by_two(tmp_path: Path) -> None:
    first, words, config = being_written(tmp_path)
    second = children.start(tmp_path, words, config, None, "kill", no_lock_of_a_run)
    wait_for(lambda: json.loads((tmp_path / "X" / "run.json").read_text())["attempts"] == 2)
    assert first.is_alive()
    assert second.is_alive()
