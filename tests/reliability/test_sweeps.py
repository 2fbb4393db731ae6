"""A sweep finishes what it can, says what it could not, and goes on where it stopped."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kdrun import lookup
from kdrun.records.manifest import job_key, read_jobs, read_sweep
from kdrun.reports.settings import Spread
from kdrun.reports.sweep import results, settings
from tests.conftest import ROOT, Answer
from tests.reliability.test_signals import wait_for

Command = Callable[..., Answer]
TRAIN = ["train", "-m", "model=cnn_tiny", "epochs=1", "dataset.limit=60", "batch_size=20", "device=cpu"]
TERRIBLE = """
import ctypes, os, signal, sys, time
from pathlib import Path
from kdrun.losses import Term

class Terrible(Term):
    def __init__(self, way: str = "works", number: int = -1, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.way = {3: "raises", 9: "exits", 14: "dies", 20: "crashes"}.get(number, way)

    def forward(self, student, teacher, batch):
        if self.way == "raises":
            raise ValueError("a bug")
        if self.way == "exits":
            sys.exit(0)
        if self.way == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "crashes":
            ctypes.string_at(0)
        if self.way == "waits":
            Path("waiting").touch()
            time.sleep(0.05)
        return student.logits.pow(2).mean()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a plugin whose loss does whatever a loss must not; what the plugin leaves in this process goes."""
    monkeypatch.setattr(lookup, "PLUGINS", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    write_plugin(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def write_plugin(folder: Path) -> None:
    losses = folder / "mine" / "losses"
    losses.mkdir(parents=True)
    for package in (losses.parent, losses):
        (package / "__init__.py").touch()
    (losses / "terrible.py").write_text(TERRIBLE)
    options = folder / "options" / "loss"
    options.mkdir(parents=True)
    terms = "terms:\n  terrible:\n    kind: terrible\n    weight: 1.0\n    way: works\n    number: -1\n"
    (options / "terrible.yaml").write_text(f"task: {{kind: cross_entropy, weight: 1.0}}\n{terms}")


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "kdrun", *words]


def jobs(folder: Path) -> list[dict[str, Any]]:
    return read_jobs(next((folder / "outputs" / "sweeps").iterdir()))


def statuses(folder: Path) -> list[str]:
    return [job["status"] for job in jobs(folder)]


def test_a_sweep_does_what_is_missing_and_nothing_twice(here: Path, kdrun: Command) -> None:
    first = kdrun(*TRAIN, "optimizer.lr=0.01,0.1", "seed=0,1")
    assert (first.code, first.err) == (0, "")
    assert statuses(here) == ["completed"] * 4
    runs = sorted((here / "outputs" / "train").iterdir())
    assert len(runs) == 4
    assert "best on validation: optimizer.lr=" in first.out
    assert " ± " in first.out
    again = kdrun(*TRAIN, "optimizer.lr=0.01,0.1", "seed=0,1")
    assert again.code == 0
    assert again.out.count("before: completed") == 4
    larger = kdrun(*TRAIN, "optimizer.lr=0.01,0.1,0.2", "seed=0,1", "sweep.jobs=2")
    assert larger.code == 0
    assert len(list((here / "outputs" / "sweeps").iterdir())) == 1, "a larger grid is the same sweep"
    assert statuses(here) == ["completed"] * 6
    assert len(list((here / "outputs" / "train").iterdir())) == 6
    alone = kdrun(*(word for word in TRAIN if word != "-m"), "optimizer.lr=0.3")
    assert alone.code == 0
    reused = kdrun(*TRAIN, "optimizer.lr=0.3", "seed=0", "sweep.name=other")
    assert "reused: " in reused.out


def test_jobs_that_fail_in_any_way_do_not_stop_the_others(here: Path, kdrun: Command) -> None:
    ways = "works,raises,exits,dies,crashes"
    words = ["--plugin", "mine", "--config-dir", "options", "-m", "student=cnn_tiny", "teacher=cnn_tiny"]
    more = ["teacher.train.epochs=1", "teacher.train.batch_size=20", "epochs=1", "batch_size=20", "dataset.limit=60"]
    sweep = kdrun("distill", *words, *more, "baseline=false", "loss=terrible", f"loss.terms.terrible.way={ways}")
    assert sweep.code == 1, sweep.err
    found = {job["setting"].rpartition("=")[2]: (job["status"], job["reason"]) for job in jobs(here)}
    assert found["works"] == ("completed", None)
    assert found["raises"][0] == found["exits"][0] == found["dies"][0] == found["crashes"][0] == "failed"
    assert "ValueError: a bug" in found["raises"][1]
    assert "SystemExit" in found["exits"][1]
    assert "killed by SIGKILL" in found["dies"][1]
    assert "killed by SIGSEGV" in found["crashes"][1]
    assert "4 jobs are missing, which may change this" in sweep.out
    once_more = kdrun("distill", *words, *more, "baseline=false", "loss=terrible", f"loss.terms.terrible.way={ways}")
    assert once_more.code == 1, "failed jobs are not tried again unasked"
    assert once_more.out.count("before: failed") == 4
    (sweep_folder,) = (here / "outputs" / "sweeps").iterdir()
    gone_on_with = kdrun("resume", "--plugin", "mine", "--config-dir", "options", str(sweep_folder))
    assert (gone_on_with.code, gone_on_with.out.count("before: failed")) == (1, 4), gone_on_with.err
    retried = ["loss=terrible", "loss.terms.terrible.way=works,dies", "sweep.retry_failed=true"]
    assert "running: loss.terms.terrible.way=dies" in kdrun("distill", *words, *more, "baseline=false", *retried).out


def test_a_job_whose_config_is_wrong_fails_by_itself(here: Path, kdrun: Command) -> None:
    sweep = kdrun(*TRAIN, "device=cpu", "device.precision=fp32,fp16")  # each is allowed, but not everywhere
    assert sweep.code == 2
    assert statuses(here) == ["completed", "failed"]
    assert "device.precision=fp16" in sweep.out


def test_what_every_job_or_a_value_gets_wrong_is_refused_at_once(here: Path, kdrun: Command) -> None:
    for wrong, said in (
        ("optimizer.lr=0.01,-3", "lr=-3: must be"),
        ("optimizer.lrr=0.01,0.1", "did you mean optimizer"),
    ):
        sweep = kdrun(*TRAIN, wrong)
        assert (sweep.code, sweep.out) == (2, "")
        assert said in sweep.err
    assert not Path("outputs/sweeps").exists()


def slow_sweep(folder: Path, started: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    words = ["--plugin", "mine", "--config-dir", "options", "-m", "student=cnn_tiny", "teacher=cnn_tiny", "seed=0,1,2"]
    more = ["teacher.train.epochs=1", "teacher.train.batch_size=20", "epochs=1000", "batch_size=20", "dataset.limit=60"]
    loss = ["baseline=false", "loss=terrible", "loss.terms.terrible.way=waits"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command("distill", *words, *more, *loss),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.append(process)
    wait_for(lambda: (folder / "waiting").exists(), 120)
    return process


@pytest.mark.parametrize("group", [pytest.param(False, marks=pytest.mark.slow), True], ids=["alone", "group"])
def test_a_sweep_that_is_signalled_saves_its_jobs_and_ends(
    here: Path, group: bool, started: list[subprocess.Popen[str]]
) -> None:
    process = slow_sweep(here, started)
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "kdrun: interrupted by SIGTERM\n")
    assert statuses(here) == ["interrupted", "not run", "not run"]
    run = next((here / "outputs" / "distill").iterdir())
    assert (run / "checkpoints" / "last.pt").exists()


def test_a_sweep_that_was_cut_off_goes_on_by_its_folder(here: Path, kdrun: Command) -> None:
    words = [*TRAIN, "seed=0,1", "dataset.view_seed=${seed}"]
    assert kdrun(*words).code == 0
    sweep = next((here / "outputs" / "sweeps").iterdir())
    lines = [json.loads(line) for line in (sweep / "manifest.jsonl").read_text().splitlines()]
    lines[1] |= {"status": "interrupted", "run": None}
    (sweep / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = next(
        path for path in (here / "outputs" / "train").iterdir() if path.name == Path(str(jobs(here)[0]["run"])).name
    )
    assert run.exists()
    resumed = kdrun("resume", str(sweep))
    assert (resumed.code, resumed.err) == (0, "")
    assert statuses(here) == ["completed", "reused"], "the run itself was whole"
    assert len(list((here / "outputs" / "sweeps").iterdir())) == 1


@pytest.mark.slow
def test_a_child_does_not_outlive_its_sweep(here: Path, started: list[subprocess.Popen[str]]) -> None:
    process = slow_sweep(here, started)
    run = next((here / "outputs" / "distill").iterdir())
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: json.loads((run / "run.json").read_text())["status"] == "interrupted")
    assert (run / "checkpoints" / "last.pt").exists()


def test_what_hydra_obeys_is_not_taken_from_a_sweep_of_somebody_else(tmp_path: Path) -> None:
    for words in (
        ["hydra.callbacks.x._target_=os.system"],
        ["+hydra.run.dir=x"],
        ["--plugin"],
        ["hydra/launcher=joblib"],
        ["--plugin=mine"],
        ["+model@hydra.callbacks=mlp"],
    ):
        (tmp_path / "sweep.json").write_text(json.dumps({"format": 1, "stage": "train", "words": words}))
        with pytest.raises(Exception, match="which is not obeyed"):
            read_sweep(tmp_path)


def test_a_jobs_key_is_what_it_does_not_where() -> None:
    config = {"seed": 0, "output_dir": "a", "sweep": {"jobs": 1}, "optimizer": {"lr": 0.1}, "device": {"threads": 1}}
    assert job_key(config) == job_key({**config, "output_dir": "b", "sweep": {"jobs": 4}, "device": {"threads": 2}})
    assert job_key(config) != job_key({**config, "optimizer": {"lr": 0.2}})
    assert job_key({**config, "teacher": {"run": "a"}}) != job_key({**config, "teacher": {"run": "b"}})
    assert job_key(config, ["device"]) != job_key({**config, "device": {"threads": 2}}, ["device"])  # asked for: told


def test_nothing_is_called_best_without_a_validation_split(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "summary.json").write_text(json.dumps({"test/accuracy": 0.9}))
    job = {"job": "a", "overrides": ["seed=0"], "setting": "seed=0", "status": "completed", "run": str(run)}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(job) + "\n")
    assert "no setting is called best" in results(tmp_path)
    assert settings(tmp_path)[0].spread("test/accuracy") == Spread(0.9, None, 1)


@pytest.mark.slow
def test_a_second_job_starts_within_half_a_second(here: Path, kdrun: Command) -> None:
    """The best of five, since a machine may be busy: a new interpreter that imports torch takes several seconds."""
    assert kdrun(*TRAIN, "seed=0,1,2,3,4,5").code == 0
    runs = [here / job["run"] for job in jobs(here)]
    ended = [(run / "run.json").stat().st_mtime for run in runs]
    said = [(run / "log.txt").read_text()[:23] for run in runs]  # when the run began: after reading its data
    begun = [datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").timestamp() for text in said]
    waits = [start - end for end, start in zip(ended, begun[1:], strict=False)]
    assert len(waits) == 5
    assert 0 < min(waits) <= 0.5, waits


def finished(folder: Path) -> dict[Path, bytes]:
    """Every file of the distillations that are completed."""
    runs = [file.parent for file in (folder / "outputs" / "distill").glob("*/run.json") if is_whole_and_completed(file)]
    return {file: file.read_bytes() for run in runs for file in run.rglob("*") if file.is_file()}


def is_whole_and_completed(file: Path) -> bool:
    return bool(json.loads(file.read_text())["status"] == "completed")


@pytest.mark.slow
def test_four_faults_in_twenty_four_jobs_and_five_kills_give_the_same_table(here: Path) -> None:
    """The same sweep without a kill and with five, at random, of everything that it started."""
    words = ["distill", "--plugin", "mine", "--config-dir", "options", "-m", "student=cnn_tiny", "teacher=cnn_tiny"]
    words += ["teacher.train.epochs=1", "teacher.train.batch_size=20", "epochs=2", "batch_size=20", "dataset.limit=60"]
    numbers = f"loss.terms.terrible.number={','.join(map(str, range(24)))}"
    words += ["device.threads=1", "baseline=false", "loss=terrible", numbers, "sweep.name=all"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    folders = [here / "whole", here / "cut"]
    for folder, part in itertools.product(folders, ("mine", "options")):
        shutil.copytree(here / part, folder / part)
    chance = random.Random(1)
    for kill in range(5):
        process = subprocess.Popen(
            command(*words), cwd=folders[1], env=environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        wanted = 4 * (kill + 1)
        wait_for(lambda: len(list((folders[1] / "outputs/distill").glob("*/summary.json"))) >= wanted, 200)  # noqa: B023
        time.sleep(chance.random() / 2)
        before = finished(folders[1])
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert {file: file.read_bytes() for file in before} == before
    tables = []
    for folder in folders:
        done = subprocess.run(command(*words), cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        found = statuses(folder)
        assert found.count("failed") == 4
        assert found.count("completed") + found.count("reused") == 20
        lines = done.stdout.splitlines()
        tables.append([line for line in lines if line.startswith(("loss.terms", "best on"))])
    assert tables[0] == tables[1]
    assert len(tables[0]) >= 24
