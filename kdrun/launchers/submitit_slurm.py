"""An array of Slurm jobs, submitted by submitit. Slurm's own queue says which of them there are: no accounting needed.

A job that is preempted, or comes to the end of its time, is told by a signal, saves, and is requeued: by Slurm, or by
submitit where the signal was SIGUSR1. It then goes on in its own directory. Jobs outlive the process that submitted
them, and are found again by a list in the sweep's folder.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shutil
import signal
import subprocess
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdrun.errors import UsageError, brief
from kdrun.records.files import read_json, write_json
from kdrun.schema import Plain
from kdrun.sweeps.children import Task, attend

REQUIRES, EXTRA = "submitit", "slurm"
TYPED = ("setup", "srun_args", "additional_parameters")
OURS = ("look_seconds", "max_num_timeout")  # options that are none of sbatch's
ENDED = (  # `CANCELLED by 0` and the like begin with these
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
)
NUMBER = re.compile(r"[0-9]+(_[0-9]+)?")  # of a job, or of one of an array
SIGNAL = "USR1"  # the one that kdrun saves at; submitit's default is USR2


def check() -> None:
    """Raises `UsageError` where there is no Slurm."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UsageError(
            "hydra/launcher=submitit_slurm: there is no sbatch here; start the sweep where Slurm's tools are"
        )


class Engine:
    def __init__(self, options: Plain, folder: Path) -> None:
        self.options, self.folder = options, folder.absolute() / "slurm"
        self.threads, self.look = options["cpus_per_task"], options["look_seconds"]
        self.list = self.folder / "submitted.json"
        known = read_json(self.list) if self.list.exists() else {}
        self.ids = {key: one for key, one in known.items() if isinstance(one, str) and NUMBER.fullmatch(one)}

    def submit(self, tasks: Sequence[Task]) -> None:
        """Raises `UsageError` when Slurm does not take them."""
        if not tasks:
            return
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = SIGNAL  # read when submitit is imported, here and in the jobs
        import submitit

        fresh = self.folder / secrets.token_hex(4)  # jobs load pickles from it: nobody else's may lie there
        fresh.mkdir(parents=True)
        executor = submitit.SlurmExecutor(fresh, max_num_timeout=self.options["max_num_timeout"])
        renamed = executor._equivalence_dict()
        given = {key: value for key, value in self.options.items() if value is not None and key not in OURS}
        named: Plain = {str(renamed.get(key, key)): value for key, value in given.items()}
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # what sbatch says is told below
            warnings.simplefilter("ignore")
            executor.update_parameters(**named)
            try:
                jobs = executor.map_array(Job(self.folder.parent), tasks)
            except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
                raise UsageError(f"Slurm does not take the jobs: {brief(' '.join(str(error).split()), 400)}") from error
        self.ids |= {task.key: job.job_id for task, job in zip(tasks, jobs, strict=True)}
        write_json(self.list, self.ids)

    def gone(self, keys: Iterable[str]) -> dict[str, str]:
        asked = {key: self.ids.get(key) for key in keys}
        states = self._states({one.partition("_")[0] for one in asked.values() if one is not None})
        if states is None:
            return {}  # Slurm does not answer: nothing is known, and nothing concluded
        fates = {key: "never submitted" if one is None else states.get(one, "not known") for key, one in asked.items()}
        over = ("never submitted", "not known", *ENDED)
        return {key: f"Slurm: {fate}" for key, fate in fates.items() if fate.startswith(over)}

    def _states(self, arrays: set[str]) -> dict[str, str] | None:
        """What Slurm says of each job of some arrays that it still remembers; None when it does not answer.

        Only of jobs whose script is in the sweep's folder: numbers come back, and a list may be somebody else's.
        """
        states: dict[str, str] = {}
        for array in sorted(arrays):
            command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%o", f"--jobs={array}"]
            try:
                said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            except (OSError, subprocess.TimeoutExpired):
                return None
            if said.returncode != 0 and "Invalid job id" not in said.stderr:
                return None
            for one, state, script in (line.split("|", 2) for line in said.stdout.splitlines() if line.count("|") > 1):
                if Path(script).is_relative_to(self.folder):
                    states[one] = state
        return states

    def stop(self, keys: Iterable[str]) -> None:
        """Slurm sends SIGTERM first, and SIGKILL after its KillWait."""
        over = self.gone(keys := list(keys))
        ids = [self.ids[key] for key in keys if key not in over and key in self.ids]
        if ids:
            subprocess.run(["scancel", *ids], capture_output=True, timeout=120, check=False)

    def close(self) -> None:
        """The jobs are Slurm's."""


class Job:
    """What submitit pickles: a call that can be made again after a requeue."""

    def __init__(self, sweep: Path) -> None:
        self.sweep = sweep.absolute()

    def __call__(self, task: Task) -> dict[str, Any]:
        requeue: Any = signal.getsignal(getattr(signal, f"SIG{SIGNAL}"))  # submitit's
        outcome = attend(task, self.sweep)
        if outcome["status"] == "interrupted" and outcome["signal"] == f"SIG{SIGNAL}":
            requeue(getattr(signal, f"SIG{SIGNAL}"), None)  # ends this process
        return outcome

    def checkpoint(self, task: Task) -> Any:
        """What submitit is to start next time: the same, since the run's directory has the state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, task)
