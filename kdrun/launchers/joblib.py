"""Calls of joblib in its own worker processes (loky), on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdrun.errors import UsageError
from kdrun.records.outcomes import Outcomes
from kdrun.schema import Plain
from kdrun.sweeps.children import Task, attend

REQUIRES, EXTRA = "joblib", "joblib"
TYPED: tuple[str, ...] = ()


def check() -> None:
    """joblib needs nothing that is not in its package."""


class Engine:
    def __init__(self, options: Plain, folder: Path) -> None:
        if options["n_jobs"] == 0:
            raise UsageError("hydra.launcher.n_jobs=0: must be at least 1, or below 0 to count from all processors")
        from joblib import effective_n_jobs

        self.folder, self.look, self.verbose = folder.absolute(), options["look_seconds"], options["verbose"]
        self.at_once: int = effective_n_jobs(options["n_jobs"])
        self.threads: int | None = max(1, (os.cpu_count() or 1) // self.at_once)
        self.fates: dict[str, str | None] = {}  # of all tasks that were submitted; None: has not ended
        self.threads_at_work: list[threading.Thread] = []
        self.stopping = False
        self.signalled: set[int] = set()

    def submit(self, tasks: Sequence[Task]) -> None:
        self.fates |= dict.fromkeys((task.key for task in tasks), None)
        if tasks:
            self.threads_at_work.append(threading.Thread(target=self._work, args=(list(tasks),), daemon=True))
            self.threads_at_work[-1].start()

    def _work(self, tasks: list[Task]) -> None:
        """In a thread, since joblib waits. When a worker dies, joblib gives up on all of them: those that were at work
        have failed, the others begin anew."""
        from joblib import Parallel, delayed

        while tasks := [task for task in tasks if self.fates[task.key] is None]:
            calls = (delayed(_attended)(task, self.folder) for task in tasks if not self.stopping)
            how = {"n_jobs": self.at_once, "pre_dispatch": "n_jobs", "batch_size": 1, "verbose": self.verbose}
            try:
                for key in Parallel(backend="loky", return_as="generator_unordered", **how)(calls):
                    self.fates[key] = "it has ended"
                why, lost = "it was not begun", {task.key for task in tasks}
            except Exception as error:
                why, lost = type(error).__name__, set(Outcomes(self.folder).heard())
                lost = lost or {task.key for task in tasks}  # no pool at all
            for task in tasks:
                if task.key in lost and self.fates[task.key] is None:
                    self.fates[task.key] = why

    def gone(self, keys: Iterable[str]) -> dict[str, str]:
        if self.stopping:
            self._signal()
        fates = {key: self.fates.get(key, "never submitted") for key in keys}
        return {key: f"joblib: {fate}" for key, fate in fates.items() if fate is not None}

    def stop(self, keys: Iterable[str]) -> None:
        self.stopping = True

    def _signal(self) -> None:
        """Ask what is at work to save and to end, once each."""
        for process in self._running() - self.signalled:
            self.signalled.add(process)
            _send(process, signal.SIGTERM)

    def _running(self) -> set[int]:
        """The processes of the jobs that are at work."""
        known = [outcome for key, outcome in Outcomes(self.folder).heard().items() if key in self.fates]
        return {int(outcome["process"]["id"]) for outcome in known if outcome["status"] == "running"}

    def close(self) -> None:
        """End the workers. Jobs still at work, whose sweep has failed or was left, are killed.

        joblib is waited for first: while it hands out tasks, it and a shutdown of its pool wait for each other.
        """
        from joblib.externals.loky import get_reusable_executor

        self.stopping = True  # it is given nothing more to hand out
        for thread in self.threads_at_work:
            thread.join(timeout=1)
            while thread.is_alive():
                for process in self._running():
                    _send(process, signal.SIGKILL)
                thread.join(timeout=1)
        if self.fates:
            get_reusable_executor().shutdown(wait=True, kill_workers=True)


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _attended(task: Task, sweep: Path) -> str:
    """In a worker. What goes wrong with one task is nothing to the others."""
    with contextlib.suppress(Exception):
        attend(task, sweep)
    return task.key
