"""A sweep is the same sweep whoever carries it out: manifest, table, what is shared, what fails, how it goes on."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.cluster.conftest import ENGINES, LAUNCHERS, SMALL, Place, settings, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("launcher", ENGINES)]
LONG = ["model=cnn_tiny", "epochs=70", "dataset.limit=400", "batch_size=20", "device=cpu"]
GRID = ["epochs=2", "loss.alpha=0.1,0.9", "seed=0,1"]
TERRIBLE = ["--plugin", "mine", "--config-dir", "options", "baseline=false", "loss=terrible"]


def words(launcher: str) -> list[str]:
    return ["distill", "-m", f"hydra/launcher={launcher}", *LAUNCHERS[launcher], *SMALL]


def test_the_same_sweep_as_by_kdruns_own_processes(place: Place, launcher: str) -> None:
    done = place.kdrun(*words(launcher), *GRID)
    assert (done.returncode, done.stderr) == (0, "")
    assert [job["status"] for job in place.jobs().values()] == ["completed"] * 4
    assert "completed: teacher for 4 jobs" in done.stdout
    assert "completed: store for 4 jobs" in done.stdout
    assert done.stdout.count("completed: baseline for 2 jobs") == 2
    assert len(place.runs("train")) == 3, "a teacher, and a baseline for each seed"
    assert len(list((place.folder / "outputs" / "store").rglob("*.bin"))) == 2, "of the training and the test split"
    asked = [json.loads((run / "run.json").read_text()) for run in place.runs("distill")]
    assert [one["teacher_outputs"] for one in asked] == ["stored"] * 4
    kept = {file: file.read_bytes() for run in place.runs("distill") for file in run.rglob("*") if file.is_file()}

    larger = place.kdrun(*words(launcher), "epochs=2", "loss.alpha=0.1,0.5,0.9", "seed=0,1")
    assert larger.stdout.count("running: loss.alpha=0.5 seed=") == 2
    assert larger.stdout.count("before: completed") == 4
    assert "running: loss.alpha=0.1" not in larger.stdout
    assert kept == {file: file.read_bytes() for file in kept}, "what is done is not touched"
    assert len(place.runs("train")) == 3

    elsewhere = ["device.threads=1", "output_dir=elsewhere"]
    own = place.kdrun("distill", "-m", *SMALL, "epochs=2", "loss.alpha=0.1,0.5,0.9", "seed=0,1", *elsewhere)
    assert own.returncode == 0
    assert settings(own.stdout) == settings(larger.stdout)
    assert len(settings(own.stdout)) == 4


def test_jobs_that_fail_in_any_way_do_not_stop_the_others(place: Place, launcher: str) -> None:
    ways = "loss.terms.terrible.way=raises,exits,dies,crashes,works"
    done = place.kdrun(*words(launcher), *TERRIBLE, "epochs=1", ways)
    assert (done.returncode, done.stderr) == (1, "")
    found = {setting.rpartition("=")[2]: (job["status"], job["reason"]) for setting, job in place.jobs().items()}
    assert found["works"] == ("completed", None)
    reasons = {"raises": "ValueError: a bug", "exits": "SystemExit", "dies": "killed by SIGKILL"}
    for way, reason in (reasons | {"crashes": "killed by SIGSEGV"}).items():
        assert found[way][0] == "failed"
        assert reason in found[way][1]
    assert "4 jobs are missing, which may change this" in done.stdout
    once_more = place.kdrun(*words(launcher), *TERRIBLE, "epochs=1", ways)
    assert once_more.stdout.count("before: failed") == 4


def test_a_sweep_that_is_stopped_saves_and_goes_on_by_its_folder(place: Place, launcher: str) -> None:
    """… with the same launcher, each job in its own directory."""
    process = place.start("train", *words(launcher)[1:3], *LAUNCHERS[launcher], *LONG, "seed=0,1,2")
    wait_for(lambda: len(list(place.folder.glob("outputs/train/*/metrics.jsonl"))) == 2, process)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (143, "kdrun: interrupted by SIGTERM\n")
    statuses = [job["status"] for job in place.jobs().values()]
    assert sorted(statuses) == ["interrupted", "interrupted", "not run"], place.jobs()
    before = place.runs("train")
    assert all((run / "checkpoints" / "last.pt").exists() for run in before)
    asked = json.loads((place.sweep / "sweep.json").read_text())["launcher"]

    done = place.kdrun("resume", str(place.sweep))
    assert (done.returncode, done.stderr) == (0, "")
    assert [job["status"] for job in place.jobs().values()] == ["completed"] * 3
    assert set(before) < set(place.runs("train"))
    attempts = [json.loads((run / "run.json").read_text())["attempts"] for run in place.runs("train")]
    assert sorted(attempts) == [1, 2, 2]
    assert json.loads((place.sweep / "sweep.json").read_text())["launcher"] == asked
    if launcher == "submitit_slurm":
        assert len(list((place.sweep / "slurm").rglob("*_submission.sh"))) == 2
