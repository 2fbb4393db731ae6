"""Loggers mirror the record, are imported only when chosen, and cost no run anything."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdrun import loggers
from kdrun.config import stage_config
from kdrun.records.manifest import job_key
from tests.conftest import Answer

Command = Callable[..., Answer]
WORDS = ["train", "model=cnn_tiny", "epochs=2", "dataset.limit=60", "batch_size=20", "device=cpu"]
KINDS = ["tensorboard", "mlflow", "wandb"]


class Kept:
    """A mirror that remembers; `broken`: it fails at the first line."""

    def __init__(self, broken: bool = False) -> None:
        self.broken, self.lines, self.numbers, self.closed = broken, [], {}, ""  # type: ignore[var-annotated]

    def metrics(self, lines: Any) -> None:
        if self.broken:
            raise ConnectionError("nobody there")
        self.lines += lines

    def summary(self, numbers: Any) -> None:
        self.numbers |= numbers

    def close(self, status: str) -> None:
        self.closed = status


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    """What stands for TensorBoard."""
    from kdrun.loggers import tensorboard

    mirror = Kept()
    monkeypatch.setattr(tensorboard, "REQUIRES", "json")
    monkeypatch.setattr(tensorboard, "open", lambda run, config: mirror)
    return mirror


def test_a_logger_is_told_what_is_recorded(kdrun: Command, kept: Kept) -> None:
    done = kdrun(*WORDS, "logger=tensorboard")
    assert (done.code, done.err) == (0, "")
    recorded = [json.loads(line) for line in (done.run / "metrics.jsonl").read_text().splitlines()]
    assert kept.lines == recorded
    assert kept.numbers == json.loads((done.run / "summary.json").read_text())
    assert kept.closed == "completed"
    names = {name for name, _, _ in loggers.scalars(recorded)}
    assert {"train/loss", "val/accuracy"} <= names


def test_a_logger_that_fails_costs_a_warning(kdrun: Command, kept: Kept) -> None:
    kept.broken = True
    done = kdrun(*WORDS, "logger=tensorboard")
    assert done.code == 0
    log = (done.run / "log.txt").read_text()
    assert log.count("logger=tensorboard is given up: ConnectionError: nobody there") == 1
    assert json.loads((done.run / "run.json").read_text())["status"] == "completed"


def test_a_logger_makes_no_other_experiment() -> None:
    plain, logged = (stage_config("train", ["model=cnn_tiny", f"logger={name}"]) for name in ("none", "mlflow"))
    assert plain != logged
    assert job_key(plain) == job_key(logged)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_package_is_told_with_the_command_that_installs_it(
    kind: str, kdrun: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        loggers.importlib.util, "find_spec", lambda name, *more: None if name == kind else find(name, *more)
    )
    answer = kdrun(*WORDS, f"logger={kind}")
    assert answer.code == 2
    assert answer.err == f"kdrun: logger={kind} needs {kind}; install it: pip install 'kdrun[{kind}]'\n"
    assert not Path("outputs").exists()


def in_a_process(kind: str, folder: Path) -> Path:
    """In one of its own: what a logger imports and starts stays out of the others' tests."""
    words = [sys.executable, "-m", "kdrun", *WORDS, f"logger={kind}", "run_dir=outputs/train/X"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "given up" not in (folder / "outputs/train/X/log.txt").read_text()
    return folder / "outputs/train/X"


@pytest.mark.slow
def test_tensorboard_for_real(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = in_a_process("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    accuracy = json.loads((run / "summary.json").read_text())["test/accuracy"]
    assert events.Scalars("summary/test/accuracy")[0].value == pytest.approx(accuracy)
    assert [one.step for one in events.Scalars("train/loss")] == [1, 2]


@pytest.mark.slow
def test_mlflow_for_real(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    run = in_a_process("mlflow", tmp_path)
    import sqlite3

    with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as base:
        query = "select value from latest_metrics where key = 'summary/test/accuracy'"
        ((accuracy,),) = base.execute(query).fetchall()
        ((status,),) = base.execute("select status from runs").fetchall()
        params = dict(base.execute("select key, value from params").fetchall())
    assert accuracy == pytest.approx(json.loads((run / "summary.json").read_text())["test/accuracy"])
    assert status == "FINISHED"
    assert params["model.kind"] == "cnn"


@pytest.mark.slow
def test_wandb_for_real_and_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = in_a_process("wandb", tmp_path)
    files = list(run.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 1
    assert files[0].stat().st_size > 0
