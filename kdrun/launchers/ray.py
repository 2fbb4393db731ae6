"""Ray's tasks, in a cluster that is there or one started on this machine for the sweep."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdrun import stopping
from kdrun.errors import UsageError, brief
from kdrun.schema import Plain
from kdrun.sweeps.children import Task, attend

REQUIRES, EXTRA = "ray", "ray"
TYPED = ("ray.init.address", "ray.init.namespace")


def check() -> None:
    """Ray needs nothing that is not in its package."""


class Engine:
    def __init__(self, options: Plain, folder: Path) -> None:
        self.options, self.folder = options["ray"], folder
        self.threads, self.look = self.options["remote"]["num_cpus"], options["look_seconds"]
        self.tasks: dict[str, Any] = {}  # what ray gives for each task
        self.ray: Any = None

    def submit(self, tasks: Sequence[Task]) -> None:
        """Raises `UsageError` when there is no cluster at the address."""
        if not tasks:
            return
        if self.ray is None:
            self._begin()
        remote = self.ray.remote(**_given(self.options["remote"]))(attend)
        self.tasks |= {task.key: remote.remote(task, self.folder.absolute()) for task in tasks}

    def _begin(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unasked
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # who asks for no GPU sees all, as without ray
        import ray

        self.ray = ray
        quiet: Plain = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
        given = _given(self.options["init"])
        if "address" in given:
            quiet.pop("include_dashboard")  # of a cluster that somebody else has started
        handlers = {number: signal.getsignal(number) for number in stopping.SIGNALS}
        try:
            ray.init(**quiet, **given)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(f"ray does not begin: {brief(' '.join(str(error).split()), 300)}") from error
        for number, handler in handlers.items():  # ray takes SIGTERM, and would end without a word
            signal.signal(number, handler)

    def gone(self, keys: Iterable[str]) -> dict[str, str]:
        return {key: why for key in keys if (why := self._fate(key)) is not None}

    def _fate(self, key: str) -> str | None:
        """How a task ended; None when it has not."""
        if key not in self.tasks:
            return "never submitted"
        ready, _ = self.ray.wait([self.tasks[key]], timeout=0)
        if not ready:
            return None
        try:
            self.ray.get(self.tasks[key])
        except Exception as error:  # also what was raised in the worker
            return f"ray: {type(error).__name__}"
        return "ray: it has ended"

    def stop(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key in self.tasks:
                with contextlib.suppress(Exception):  # it has ended by itself
                    self.ray.cancel(self.tasks[key], force=False)

    def close(self) -> None:
        if self.ray is not None:
            self.ray.shutdown()


def _given(node: Plain) -> Plain:
    return {key: value for key, value in node.items() if value is not None}
