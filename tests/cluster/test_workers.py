"""A worker of Ray or joblib that is killed: its job has failed or begins again, and the others go on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import LAUNCHERS, Place, wait_for, worker_of

LONG = ["model=cnn_tiny", "epochs=80", "dataset.limit=400", "batch_size=20", "device=cpu"]
pytestmark = pytest.mark.slow


def with_one_killed(place: Place, launcher: str, *words: str) -> tuple[int, str, str]:
    process = place.start("train", "-m", f"hydra/launcher={launcher}", *LAUNCHERS[launcher], *words)
    found: list[int] = []

    def at_work() -> bool:
        found[:] = [one for one in [worker_of(place, 0)] if one is not None]
        return bool(found)

    wait_for(at_work, process)
    os.kill(found[0], signal.SIGKILL)
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err


@pytest.mark.parametrize("launcher", [pytest.param("ray", marks=pytest.mark.ray)])
def test_of_two_workers_of_ray_one_is_killed(place: Place, launcher: str) -> None:
    code, out, err = with_one_killed(place, launcher, *LONG, "seed=0,1,2")
    assert (code, err) == (1, "")
    jobs = place.jobs()
    assert [jobs[f"seed={seed}"]["status"] for seed in range(3)] == ["failed", "completed", "completed"]
    assert "ray: WorkerCrashedError" in jobs["seed=0"]["reason"]
    assert "(1 job is missing" in out
    words = [f"hydra/launcher={launcher}", *LAUNCHERS[launcher], *LONG, "seed=0,1,2", "sweep.retry_failed=true"]
    again = place.kdrun("train", "-m", *words)
    assert (again.returncode, again.stderr) == (0, "")
    attempts = [json.loads((run / "run.json").read_text())["attempts"] for run in place.runs("train")]
    assert sorted(attempts) == [1, 1, 2], "it went on in its own directory"


@pytest.mark.parametrize("launcher", [pytest.param("ray", marks=pytest.mark.ray)])
def test_ray_begins_it_again_where_that_is_asked_for(place: Place, launcher: str) -> None:
    retried = "hydra.launcher.ray.remote.max_retries=1"
    code, _, err = with_one_killed(place, launcher, retried, *LONG, "seed=0,1")
    assert (code, err) == (0, "")
    assert [job["status"] for job in place.jobs().values()] == ["completed"] * 2
    attempts = [json.loads((run / "run.json").read_text())["attempts"] for run in place.runs("train")]
    assert sorted(attempts) == [1, 2]


@pytest.mark.parametrize("launcher", [pytest.param("joblib", marks=pytest.mark.joblib)])
def test_joblib_gives_up_what_was_at_work_and_does_the_rest(place: Place, launcher: str) -> None:
    code, _, err = with_one_killed(place, launcher, *LONG, "seed=0,1,2")
    assert code == 1, err
    jobs = place.jobs()
    assert jobs["seed=0"]["status"] == "failed"
    assert "joblib: TerminatedWorkerError" in jobs["seed=0"]["reason"]
    assert jobs["seed=2"]["status"] == "completed", "it had not begun"


@pytest.mark.parametrize("launcher", [pytest.param("joblib", marks=pytest.mark.joblib)])
def test_a_sweep_that_nobody_reads_any_more_ends_with_its_workers(place: Place, launcher: str) -> None:
    process = place.start("train", "-m", f"hydra/launcher={launcher}", *LAUNCHERS[launcher], *LONG, "seed=range(6)")
    assert process.stdout is not None
    process.stdout.readline()
    wait_for(lambda: worker_of(place, 0), process)
    process.stdout.close()
    process.wait(timeout=60)
    assert not [one for one in _outcomes(place) if one["status"] == "running" and _lives(one["process"]["id"])]


def _outcomes(place: Place) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in place.folder.glob("outputs/sweeps/*/outcomes/*.json")]


def _lives(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
