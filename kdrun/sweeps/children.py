"""Jobs in child processes: a job that fails, exits, is killed or crashes never stops the others.

The children start from a `forkserver` that has imported torch and computed nothing, in some hundredths of a second;
where there is none, from a new interpreter. A worker of a cluster's engine starts its job in the same way (`attend`),
so that every end of a job is told in the same words everywhere.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import platform
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdrun import stopping
from kdrun.errors import KdrunError
from kdrun.processes import is_alive
from kdrun.records.outcomes import Outcomes
from kdrun.redact import redacted
from kdrun.running import in_one_line, run_stage

IMPORTED = [
    "kdrun.sweeps.warm",
    "torch._dynamo",  # imported by the first optimizer
    "sklearn.datasets",
    "kdrun.sweeps.children",
    "kdrun.stages.distill",
    "kdrun.stages.evaluate",
    "kdrun.reports.outcome",
]


LOOK = 0.1  # seconds
PATIENCE = 30  # seconds for what is left of an attempt before


@dataclass(frozen=True)
class Task:
    """What a child needs: a checked config, and how it was asked for."""

    key: str
    config: dict[str, Any]
    overrides: list[str]
    log: str  # the file that takes what the job says
    plugins: list[str] = field(default_factory=list)
    shared: bool = False
    debug: bool = False
    need: str | None = None  # not the run itself but what it shares with others: `teacher`, `baseline` or `store`
    place: str | None = None  # the folder in which kdrun was started, for a worker elsewhere


@dataclass
class Child:
    task: Task
    process: Any
    connection: Any


def carried_out(tasks: Sequence[Task], at_once: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Each task twice: when it starts, with `status` running, and when it ends, with what became of it.

    When somebody asks to stop, the children are asked too, save, and end; what did not start is `not run`. Then
    `Stopped` is raised.
    """
    waiting, running = deque(tasks), list[Child]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(start(waiting.popleft()))
                yield running[-1].task, {"status": "running"}
            multiprocessing.connection.wait([child.process.sentinel for child in running])
            for child in [one for one in running if not one.process.is_alive()]:
                running.remove(child)
                yield child.task, ended(child)
    except stopping.Stopped:
        for child in running:
            child.process.terminate()
        for child in running:
            yield child.task, ended(child)
        for task in waiting:
            yield task, {"status": "not run", "reason": "the sweep was stopped before"}
        raise
    finally:
        for child in running:
            with contextlib.suppress(ValueError):  # closed
                child.process.terminate()


def start(task: Task) -> Child:
    """The task in a process of its own."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(IMPORTED)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, task, dict(os.environ)))
    process.start()
    there.close()
    return Child(task, process, here)


def ended(child: Child) -> dict[str, Any]:
    """What a child says of itself; when it could say nothing, how it died."""
    child.process.join()
    answer: dict[str, Any] | None = None
    with contextlib.suppress(EOFError, OSError):
        if child.connection.poll():
            answer = child.connection.recv()
    code = child.process.exitcode
    child.connection.close()
    child.process.close()
    if answer is not None:
        return answer
    died = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code} and said nothing"
    return {"status": "failed", "reason": f"{died}; see {child.task.log}"}


def attend(task: Task, sweep: Path) -> dict[str, Any]:
    """In a worker of an engine: carry out the task in a child, and tell the sweep when it starts and how it ended.

    A worker that is asked to stop asks the child, which saves, and tells that too, with the `signal` it was asked by.
    """
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    if task.place is not None:
        os.chdir(task.place)
    outcomes = Outcomes(sweep)
    _wait_for_the_one_before(outcomes.heard().get(task.key, {}))
    stopping.listen()
    child, asked = None, None
    try:
        with stopping.deferred():
            child = start(task)
            process = {"id": child.process.pid, "host": platform.node()}
            outcomes.tell(task.key, {"status": "running", "process": process})
        while child.process.is_alive():
            child.process.join(LOOK)  # not for ever: Ray's request to stop is no signal of the system
    except stopping.Stopped as error:
        stopping.forget()
        assert child is not None
        asked = str(error)
        child.process.terminate()
    with contextlib.suppress(stopping.Stopped), stopping.deferred():
        outcome = {**ended(child), "signal": asked}
        outcomes.tell(task.key, outcome)
    for number, handler in before.items():
        signal.signal(number, handler)
    return outcome


def _wait_for_the_one_before(outcome: dict[str, Any]) -> None:
    """The child of a worker that was killed saves and ends by itself, a moment later."""
    process = outcome.get("process", {})
    end = time.monotonic() + PATIENCE
    here = process.get("host") == platform.node()
    while here and time.monotonic() < end and is_alive(int(process["id"])):
        time.sleep(LOOK)


def _work(connection: Any, task: Task, environment: dict[str, str]) -> None:
    """In the child. What it says goes to a file; what became of it, to the parent."""
    os.environ.update(environment)  # of the worker, not of the server that it may share with earlier tasks
    with Path(task.log).open("a") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    stopping.listen()
    _end_with_the_parent()
    try:
        answer = _outcome(task)
    except KdrunError as error:
        answer = {"status": "failed", "reason": redacted(str(error)), "code": error.exit_code}
    except BaseException as error:  # also `sys.exit` in somebody's plugin
        stopped = stopping.request(error)
        if task.debug and stopped is None:
            raise
        answer = {"status": "failed", "reason": in_one_line(error)}
        if stopped is not None:
            answer = {"status": "interrupted", "reason": str(stopped)}
    print(": ".join([answer["status"], *([answer["reason"]] if answer.get("reason") else [])]))
    connection.send(answer)


def _outcome(task: Task) -> dict[str, Any]:
    from kdrun.lookup import add_plugin
    from kdrun.records.runs import read_info

    sys.path.insert(0, str(Path.cwd()))
    for plugin in task.plugins:
        add_plugin(plugin)
    if task.need is not None:
        from kdrun.stages.prepare import prepare

        return {"status": "completed", "reason": None, "run": prepare(task.config, task.need)}
    before = time.time()
    path = run_stage(task.config, task.overrides, task.debug, task.shared)
    made = (path / "run.json").stat().st_mtime >= before
    found = {"run": str(path), "fingerprint": read_info(path)["fingerprint"], "reason": None}
    return {"status": "completed" if made else "reused", **found}


def _end_with_the_parent() -> None:
    """A job whose sweep has died saves and ends too."""
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(signal, "SIGTERM"):
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
