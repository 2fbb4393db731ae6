"""Several kdruns at once: a directory each, one teacher for all, one writer per run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from kdrun.config import stage_config
from tests.reliability import children
from tests.reliability.test_signals import LONG, wait_for

FEW = ["dataset.limit=60", "device=cpu", "device.threads=1", "batch_size=20"]


def started_at_once(folder: Path, words: list[list[str]], *rest: object) -> list[children.Ending]:
    made = [children.start(folder, one, stage_config(one[0], one[1:]), *rest) for one in words]
    return [children.ended(child, folder) for child in made]


@pytest.mark.parametrize("many", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_runs_that_start_at_once_have_a_directory_each(many: int, tmp_path: Path) -> None:
    words = ["train", "model=cnn_tiny", "epochs=1", *FEW]
    endings = started_at_once(tmp_path, [words] * many)
    assert [ending.code for ending in endings] == [0] * many
    runs = list((tmp_path / "outputs" / "train").iterdir())
    assert len(runs) == many
    assert all(json.loads((run / "run.json").read_text())["status"] == "completed" for run in runs)


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
    """How many views of a teacher are computed by four distillations that start at once and need three."""
    teacher = ["teacher=cnn_tiny", "teacher.train.epochs=1", "teacher.train.batch_size=20", "baseline=false"]
    stored = ["teacher.outputs=stored", "augment=flip", "epochs=3"]
    ending = children.run(folder, ["train-teacher", "teacher=cnn_tiny", "epochs=1", *FEW])
    assert ending.code == 0, ending.err
    words = [["distill", *teacher, *FEW, *stored, f"seed={seed}"] for seed in range(4)]
    endings = started_at_once(folder, words, *rest)
    assert [ending.code for ending in endings] == [0] * 4
    return sum(line.startswith("open ") and ".bin" in line for ending in endings for line in ending.operations)


def test_four_runs_that_need_one_store_fill_it_once(tmp_path: Path) -> None:
    assert four_need_one_store(tmp_path) == 3


def no_lock() -> None:
    """The mistake: everybody looks, finds nothing, and trains."""
    from contextlib import nullcontext

    from kdrun.stages import teacher, train

    train.one_at_a_time = teacher.one_at_a_time = lambda *_: nullcontext()  # type: ignore[assignment]


def test_without_a_lock_it_is_trained_more_than_once(tmp_path: Path) -> None:
    assert four_need_one_teacher(tmp_path, None, "kill", no_lock) > 1


def test_a_run_that_is_being_written_is_not_gone_on_with_by_another(tmp_path: Path) -> None:
    words = ["train", *LONG, "run_dir=X", "resume=auto"]
    config = stage_config("train", words[1:])
    first = children.start(tmp_path, words, config)
    wait_for(lambda: (tmp_path / "X" / "metrics.jsonl").exists())
    second = children.run(tmp_path, words, config)
    third = children.run(tmp_path, ["resume", "X"])
    holder = first.pid
    os.kill(holder, signal.SIGTERM)
    assert children.ended(first, tmp_path).code == 143
    for ending in (second, third):
        assert ending.code == 1
        assert f"is being written by process {holder} on " in ending.err
        assert len(ending.err.splitlines()) == 1
