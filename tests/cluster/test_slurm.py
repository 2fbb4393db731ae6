"""What is Slurm's: preemption and requeues, time that is up, jobs that outlive whoever submitted them."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import LAUNCHERS, Place, wait_for, worker_of

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.parametrize("launcher", ["submitit_slurm"])]
WORDS = ["train", "-m", "hydra/launcher=submitit_slurm", *LAUNCHERS["submitit_slurm"]]
EPOCHS = 80  # seconds, of which a test needs the first few
LONG = ["model=cnn_tiny", f"epochs={EPOCHS}", "dataset.limit=400", "batch_size=20", "device=cpu"]


def submitted(place: Place) -> dict[str, str]:
    """Slurm's number of each job, by what was swept."""
    ids = json.loads((place.sweep / "slurm" / "submitted.json").read_text())
    return {setting: ids[job["job"]] for setting, job in place.jobs().items()}


def info(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def of_seed(place: Place, seed: int) -> list[Path]:
    return [run for run in place.runs("train") if (run / "run.json").exists() and info(run)["seeds"]["seed"] == seed]


def has_saved(place: Place, seed: int) -> bool:
    return any((run / "checkpoints" / "last.pt").exists() for run in of_seed(place, seed))


def test_jobs_that_are_preempted_are_requeued_and_go_on_in_their_own_directories(place: Place, launcher: str) -> None:
    """Seed 1 as Slurm preempts, by SIGTERM and a new start; seed 2 by SIGUSR1, as shortly before its time is up."""
    process = place.start(*WORDS, *LONG, "seed=0,1,2")
    for seed, ask in ((1, ("scontrol", "requeue")), (2, ("scancel", "--signal=USR1"))):
        wait_for(partial(has_saved, place, seed), process)
        one = submitted(place)[f"seed={seed}"]
        assert one.endswith(f"_{seed}"), "the jobs are one array"
        place.said(*ask, one)
    out, err = process.communicate(timeout=400)
    assert (process.returncode, err) == (0, "")
    assert [job["status"] for job in place.jobs().values()] == ["completed"] * 3
    assert len(place.runs("train")) == 3, "no second directory"
    assert [info(of_seed(place, seed)[0])["attempts"] for seed in range(3)] == [1, 2, 2]
    for seed in (1, 2):
        said = [line for line in out.splitlines() if f"seed={seed}" in line and ": " in line]
        assert [line.partition(":")[0] for line in said][:4] == ["running", "interrupted", "running", "completed"]
        log = (of_seed(place, seed)[0] / "log.txt").read_text()
        assert "interrupted; `kdrun resume" in log
        assert ", attempt 2" in log
        lines = [json.loads(line) for line in (of_seed(place, seed)[0] / "metrics.jsonl").read_text().splitlines()]
        trained = [line["epoch"] for line in lines if line["split"] == "train"]
        assert trained == list(range(1, EPOCHS + 1)), "no epoch is lost"
    assert place.said("squeue", "--noheader") == ""


def test_jobs_outlive_the_process_that_submitted_them_and_are_not_submitted_again(place: Place, launcher: str) -> None:
    process = place.start(*WORDS, *LONG, "seed=0,1")
    wait_for(lambda: len(list(place.folder.glob("outputs/train/*/metrics.jsonl"))) == 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(place.said("squeue", "--noheader").splitlines()) >= 1
    done = place.kdrun("resume", str(place.sweep))
    assert (done.returncode, done.stderr) == (0, "")
    assert [job["status"] for job in place.jobs().values()] == ["completed"] * 2
    assert [info(run)["attempts"] for run in place.runs("train")] == [1, 1]
    assert len(list((place.sweep / "slurm").rglob("*_submission.sh"))) == 1


def test_a_worker_that_is_killed_has_failed_and_a_job_that_is_cancelled_is_interrupted(
    place: Place, launcher: str
) -> None:
    """… both go on in their own directories when they are asked to."""
    process = place.start(*WORDS, *LONG, "seed=0,1,2")
    wait_for(lambda: worker_of(place, 0) is not None and worker_of(place, 1) is not None, process)
    killed = worker_of(place, 0)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    place.said("scancel", submitted(place)["seed=1"])
    out, err = process.communicate(timeout=400)
    assert (process.returncode, err) == (1, "")
    jobs = place.jobs()
    assert [jobs[f"seed={seed}"]["status"] for seed in range(3)] == ["failed", "interrupted", "completed"]
    assert "its worker ended without a word (Slurm: FAILED)" in jobs["seed=0"]["reason"]
    assert "2 jobs are missing" in out
    again = place.kdrun(*WORDS, *LONG, "seed=0,1,2", "sweep.retry_failed=true")
    assert again.returncode == 0, again.stderr
    assert [info(of_seed(place, seed)[0])["attempts"] for seed in range(3)] == [2, 2, 1]
    assert len(place.runs("train")) == 3


def test_what_slurm_does_not_take_is_told_in_one_line(place: Place, launcher: str) -> None:
    done = place.kdrun(*WORDS, *LONG, "seed=0,1", "hydra.launcher.partition=nowhere")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Slurm does not take the jobs" in done.stderr
    assert "invalid partition" in done.stderr.lower()
