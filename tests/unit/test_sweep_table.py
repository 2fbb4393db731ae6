"""The live table of a sweep: progress of what runs, what failed, the best so far, time left."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kdrun.sweeps import table as module
from tests.conftest import mutated

EPOCHS = "distill in outputs/distill/x\nepoch 7/20  loss 0.31  lr 0.1  val accuracy 0.9722  val nll 0.1  900 images/s\n"


def job(name: str, status: str, **facts: Any) -> dict[str, Any]:
    return {"job": name, "setting": f"loss.alpha={name[0]} seed={name[1]}", "overrides": [], "status": status, **facts}


def done(folder: Path, name: str, val: float, test: float) -> dict[str, Any]:
    (folder / name).mkdir()
    numbers = {"val/accuracy": val, "test/accuracy": test, "test/samples": 359}
    (folder / name / "summary.json").write_text(json.dumps(numbers))
    return job(name, "completed", run=str(folder / name))


def seen(folder: Path, monkeypatch: pytest.MonkeyPatch, table: ModuleType = module) -> str:
    """What a terminal shows when three of six jobs are done, one has failed and one runs."""
    from rich.console import Console

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    screen = Console(file=io.StringIO(), width=120)
    monkeypatch.setattr(table, "console", lambda: screen)
    log = folder / "log.txt"
    log.write_text(EPOCHS)
    names = ("10", "11", "20", "21", "30", "31")
    with table.SweepTable(len(names)) as shown:
        for name in names:
            shown.add(name, job(name, "not run"))
        for ended in (done(folder, "10", 0.90, 0.99), done(folder, "11", 0.92, 0.98), done(folder, "20", 0.95, 0.94)):
            shown.update(ended["job"], job(ended["job"], "running"), str(log))
            shown.update(ended["job"], ended, str(log))
        shown.update("21", job("21", "failed", reason="ValueError: a bug"), str(log))
        shown.update("30", job("30", "running"), str(log))
        told = Console(file=io.StringIO(), width=120)
        told.print(shown.drawn())
    return str(told.file.getvalue())  # type: ignore[attr-defined]


def test_it_says_how_far_the_jobs_are_and_which_is_best_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = seen(tmp_path, monkeypatch)
    assert re.search(r"loss.alpha=3 seed=0 +running +━+.* epoch 7/20  val accuracy 0.9722", told)
    assert re.search(r"loss.alpha=2 seed=1 +failed +ValueError: a bug", told)
    assert re.search(r"3 of 6 done, 1 failed, 1 running, about 0:00:\d\d left", told)
    assert "best so far on validation (1 job is missing, which may change this): loss.alpha=2:" in told
    assert "val accuracy 95.00 %, test accuracy 94.00 % (n = 1 seed, 359 test samples)" in " ".join(told.split())


def test_a_table_that_hears_nothing_of_a_running_job_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mutated(module, "self.logs = {**self.logs, key: log}", "pass")
    assert "epoch 7/20" not in seen(tmp_path, monkeypatch, wrong)


def test_a_name_is_no_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    shown = module.SweepTable(1)
    shown.update("a", {"setting": "x=[bold]", "status": "failed", "reason": "[/nothing]"}, "")
    told = Console(file=io.StringIO(), width=120)
    told.print(shown.drawn())
    assert "x=[bold]" in told.file.getvalue()  # type: ignore[attr-defined]
    assert "[/nothing]" in told.file.getvalue()  # type: ignore[attr-defined]


def test_what_a_job_says_is_read_from_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert module.last_line(str(log)) == ""
    log.write_text("a line\n" * 10_000 + "the last \x1b[31mone\n\n")
    assert module.last_line(str(log)) == "the last \\x1b[31mone"
