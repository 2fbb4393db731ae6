"""Loggers mirror the record, are imported only when chosen, and cost no run anything."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdrun import loggers
from kdrun.config import stage_config
from kdrun.records import run as run_module
from kdrun.records.manifest import job_key
from tests.conftest import Answer, mutated
from tests.reliability.test_signals import wait_for

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


def test_a_run_that_goes_on_tells_its_mirror_every_line_again(kept: Kept, tmp_path: Path) -> None:
    """A state of the first epoch, then a second that was cut off before it was saved."""
    run = gone_on_with(tmp_path / "run", [{"epoch": 1, "split": "train", "loss": 2.0}], kept)
    run.metrics({"epoch": 2, "split": "train", "loss": 1.0})
    recorded = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in recorded] == [1, 2]
    assert kept.lines == recorded


def test_a_mirror_that_is_told_only_what_is_new_is_noticed(kept: Kept, tmp_path: Path) -> None:
    wrong = mutated(run_module, "self._record(history, history)", "self._record(history, ())")
    gone_on_with(tmp_path / "run", [{"epoch": 1, "split": "train", "loss": 2.0}], kept, wrong)
    assert kept.lines == []


def gone_on_with(folder: Path, history: list[dict[str, Any]], mirror: Kept, module: Any = run_module) -> Any:
    (folder / "checkpoints").mkdir(parents=True)
    run = module.Run(folder, {}, None)
    run.mirrors.append(mirror)
    run.recall(history)
    return run


def test_of_several_processes_one_tells(kept: Kept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = run_module.Run(tmp_path, {}, None)
    for first in (True, False):
        monkeypatch.setattr(loggers.processes, "is_first", lambda first=first: first)
        with loggers.mirrored(run, {"logger": {"kind": "tensorboard"}}):
            assert len(run.mirrors) == first


def test_a_stop_is_no_failure(kept: Kept, tmp_path: Path) -> None:
    run = run_module.Run(tmp_path, {}, None)
    with pytest.raises(KeyboardInterrupt), loggers.mirrored(run, {"logger": {"kind": "tensorboard"}}):
        raise KeyboardInterrupt
    assert kept.closed == "interrupted"


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
    """A run that is killed after some epochs and gone on with; in processes of its own, since loggers import a lot."""
    run = folder / "outputs/train/X"
    words = ["epochs=12", "checkpoint.every=3", f"logger={kind}", "run_dir=outputs/train/X", "resume=auto"]
    command = [sys.executable, "-m", "kdrun", *WORDS, *words]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: any(epoch > 3 for epoch in epochs(run)), 300)
    finally:
        process.kill()
        process.wait()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "given up" not in (run / "log.txt").read_text()
    assert json.loads((run / "run.json").read_text())["attempts"] == 2
    return run


def epochs(run: Path) -> list[int]:
    file = run / "metrics.jsonl"
    return [json.loads(line)["epoch"] for line in file.read_text().splitlines()] if file.exists() else []


Told = list[tuple[str, int, float]]


def recorded(run: Path) -> Told:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return sorted((name, epoch, value) for name, value, epoch in loggers.scalars(lines))


def assert_mirrored(run: Path, told: Told, summary: dict[str, float]) -> None:
    """Each line of the record once, with its value, and every number of the summary."""
    wanted = recorded(run)
    assert [one[:2] for one in sorted(told)] == [one[:2] for one in wanted]
    assert [one[2] for one in sorted(told)] == pytest.approx([one[2] for one in wanted])
    assert summary == pytest.approx(
        {key: value for key, value in json.loads((run / "summary.json").read_text()).items() if value is not None}
    )


@pytest.mark.slow
def test_tensorboard_for_real(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = in_a_process("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    told = [(tag, one.step, one.value) for tag in events.Tags()["scalars"] for one in events.Scalars(tag)]
    summary = {tag.removeprefix("summary/"): value for tag, _, value in told if tag.startswith("summary/")}
    assert_mirrored(run, [one for one in told if not one[0].startswith("summary/")], summary)


@pytest.mark.slow
def test_mlflow_for_real(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    run = in_a_process("mlflow", tmp_path)
    import sqlite3

    with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as base:
        runs = dict(base.execute("select lifecycle_stage, status from runs").fetchall())
        ((own,),) = base.execute("select run_uuid from runs where lifecycle_stage = 'active'").fetchall()
        told = base.execute("select key, step, value from metrics where run_uuid = ?", (own,)).fetchall()
        params = dict(base.execute("select key, value from params where run_uuid = ?", (own,)).fetchall())
    assert runs["active"] == "FINISHED"
    assert params["model.kind"] == "cnn"
    summary = {key.removeprefix("summary/"): value for key, _, value in told if key.startswith("summary/")}
    assert_mirrored(run, [one for one in told if not one[0].startswith("summary/")], summary)


@pytest.mark.slow
def test_two_jobs_at_once_share_mlflows_tables(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    command = [sys.executable, "-m", "kdrun", *WORDS, "-m", "seed=0,1", "sweep.jobs=2", "logger=mlflow"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300, check=True)
    import sqlite3

    with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as base:
        assert base.execute("select status from runs").fetchall() == [("FINISHED",), ("FINISHED",)]


@pytest.mark.slow
def test_wandb_for_real_and_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = in_a_process("wandb", tmp_path)
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    records = list(read_wandb(file))
    rows = [_items(one.history.item) for one in records if one.WhichOneof("record_type") == "history"]
    told = [
        (key, int(row["epoch"]), value) for row in rows for key, value in row.items() if "/" in key and key[0] != "_"
    ]
    updates = [_items(one.summary.update) for one in records if one.WhichOneof("record_type") == "summary"]
    numbers = json.loads((run / "summary.json").read_text())
    summary = {key: value for update in updates for key, value in update.items() if numbers.get(key) is not None}
    assert_mirrored(run, told, summary)


def _items(items: Any) -> dict[str, float]:
    return {one.key or ".".join(one.nested_key): json.loads(one.value_json) for one in items}


def read_wandb(file: Path) -> Iterator[Any]:
    """The records of W&B's file: LevelDB's log format, after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, whole = file.read_bytes(), 7, b""
    while place < len(content):
        left = 32768 - place % 32768
        if left < 7:  # of a block, too short for another header
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record
