"""The engines, each skipped with its reason where it is not installed, and sweeps on them as a person starts them."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kdrun.records.manifest import read_jobs
from tests.cluster import slurm_node
from tests.conftest import ROOT
from tests.reliability.test_sweeps import write_plugin

SMALL = ["student=cnn_tiny", "teacher=cnn_tiny", "device=cpu", "dataset.limit=60", "batch_size=20"]
SMALL += ["teacher.train.epochs=1", "teacher.train.batch_size=20"]
LAUNCHERS = {
    "submitit_slurm": ["hydra.launcher.look_seconds=0.3"],
    "ray": ["hydra.launcher.ray.init.num_cpus=2"],
    "joblib": ["hydra.launcher.n_jobs=2"],
}
ENGINES = [
    pytest.param("submitit_slurm", marks=pytest.mark.slurm),
    pytest.param("ray", marks=pytest.mark.ray),
    pytest.param("joblib", marks=pytest.mark.joblib),
]


@dataclass
class Place:
    """A folder in which kdrun is started, and the environment that its engine needs."""

    folder: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "kdrun", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def kdrun(self, *words: str, seconds: float = 400) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=seconds)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def said(self, *command: str) -> str:
        """What a command of the engine prints."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    @property
    def sweep(self) -> Path:
        return next((self.folder / "outputs" / "sweeps").iterdir())

    def jobs(self) -> dict[str, dict[str, Any]]:
        """The manifest by what was swept."""
        return {job["setting"]: job for job in read_jobs(self.sweep)}

    def runs(self, stage: str) -> list[Path]:
        return sorted((self.folder / "outputs" / stage).glob("*"))


def settings(out: str) -> list[str]:
    """What a sweep says of its settings and of the best of them; not in the order in which they were first met."""
    return sorted(line for line in out.splitlines() if line.startswith(("loss.alpha", "best on validation")))


def wait_for(happened: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, f"it ended before: {process.communicate()}"
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def worker_of(place: Place, seed: int) -> int | None:
    """The process in which the engine attends to a job: the parent of the one that the job is."""
    for file in place.folder.glob("outputs/sweeps/*/outcomes/*.json"):
        job = next(one for one in place.jobs().values() if one["job"] == file.stem)
        outcome = json.loads(file.read_text())
        if job["setting"] == f"seed={seed}" and outcome["status"] == "running":
            run = [one for one in place.runs("train") if (one / "checkpoints" / "last.pt").exists()]
            mine = [one for one in run if json.loads((one / "run.json").read_text())["seeds"]["seed"] == seed]
            server = _parent(outcome["process"]["id"])  # the forkserver, a child of the worker
            return _parent(server) if mine else None
    return None


def _parent(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which there is a Slurm."""
    why = slurm_node.missing() or (None if importlib.util.find_spec("submitit") else "no submitit: kdrun[slurm]")
    if why is not None:
        pytest.skip(why)
    with slurm_node.node(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """For the engine that the test names by its parameter `launcher`."""
    launcher = request.getfixturevalue("launcher")
    environment = dict(os.environ)
    if launcher == "submitit_slurm":
        environment = request.getfixturevalue("slurm")
    elif importlib.util.find_spec(launcher) is None:
        pytest.skip(f"{launcher} is not installed: kdrun[{launcher}]")
    write_plugin(tmp_path)
    made = Place(tmp_path, {**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    yield made
    for process in made.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
