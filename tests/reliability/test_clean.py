"""`kdrun clean` frees what nobody needs, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdrun.records.files import write_json
from tests.conftest import Answer

Command = Callable[..., Answer]
WORDS = ["train", "model=cnn_tiny", "epochs=2", "dataset.limit=60", "checkpoint.every=1", "device=cpu"]


@pytest.fixture
def run(kdrun: Command) -> Path:
    return kdrun(*WORDS, "checkpoint.keep=all").run


def checkpoint_names(run: Path) -> list[str]:
    return sorted(file.name for file in (run / "checkpoints").iterdir())


def test_what_is_needed_to_go_on_is_dropped_when_a_run_completes(kdrun: Command, run: Path) -> None:
    assert checkpoint_names(run) == ["last.pt", "model.pt", "previous.pt"]
    assert checkpoint_names(kdrun(*WORDS, "seed=1").run) == ["model.pt"]


def test_clean_frees_it_later_and_says_how_much(kdrun: Command, run: Path) -> None:
    (run / ".summary.json.7.part").write_text("{")
    before = sorted(run.rglob("*"))
    assert "3 files" in kdrun("clean", "dry_run=true").out
    assert sorted(run.rglob("*")) == before
    answer = kdrun("clean")
    assert answer.code == 0
    assert "3 files" in answer.out
    assert checkpoint_names(run) == ["model.pt"]
    assert "0 files" in kdrun("clean", str(run)).out


def test_a_run_that_can_be_gone_on_with_is_left_alone_unless_named(kdrun: Command, run: Path) -> None:
    info = json.loads((run / "run.json").read_text())
    write_json(run / "run.json", {**info, "status": "interrupted"})
    assert "0 files" in kdrun("clean").out
    assert "2 files" in kdrun("clean", "unfinished=true").out
    assert kdrun("clean", "nowhere").code == 2
    assert kdrun("clean", "unfinished=perhaps").code == 2


def test_one_damaged_run_does_not_keep_the_others_from_being_cleaned(kdrun: Command, run: Path) -> None:
    damaged = run.parent / "0_damaged"
    shutil.copytree(run, damaged)
    (damaged / "run.json").write_text("{")
    answer = kdrun("clean")
    assert (answer.code, answer.err) == (0, "")
    assert f"left alone: {damaged / 'run.json'} cannot be read" in answer.out
    assert checkpoint_names(run) == ["model.pt"]
    assert checkpoint_names(damaged) == ["last.pt", "model.pt", "previous.pt"]
    assert kdrun("clean", str(damaged)).code == 1
