"""Tasks on an engine of a cluster, as seen from the process that keeps the manifest: one loop for all engines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdrun import stopping
from kdrun.launchers import Engine
from kdrun.records.outcomes import FINAL, Outcomes
from kdrun.sweeps.children import Task

GRACE = 5.0  # seconds for a shared folder to show the last word of a job whose engine no longer has it
OF_THE_WORKER = ("process", "signal")  # what it tells for itself and its engine, not for the manifest
LINGER = 90.0  # seconds for jobs that were asked to stop


def carried_out(tasks: Sequence[Task], engine: Engine, sweep: Path) -> Iterator[tuple[Task, dict[str, Any]]]:
    """As `kdrun.sweeps.children.carried_out`; between start and end a task may also be told to be `interrupted`, when
    its engine will start it again.

    A task that an earlier process submitted, and that is still in the engine or has ended since, is not submitted
    again. When somebody asks to stop, the tasks are asked too; when this process is killed, it is for the engine to
    say whether they go on.
    """
    waiting = {task.key: task for task in tasks}
    outcomes = Outcomes(sweep)
    absent = engine.gone(waiting)  # asked before the outcomes are read: who is gone has told his
    known = outcomes.heard()
    new = [waiting[key] for key in absent if known.get(key, {}).get("status") not in FINAL]
    try:
        for task in new:
            outcomes.forget(task.key)
        with stopping.deferred():  # what was submitted is known
            engine.submit(new)
        yield from _followed(waiting, engine, outcomes)
    except stopping.Stopped:
        engine.stop(waiting)
        stopping.forget()
        yield from _followed(waiting, engine, outcomes, time.monotonic() + LINGER)
        raise


def _followed(
    waiting: dict[str, Task], engine: Engine, outcomes: Outcomes, end: float | None = None
) -> Iterator[tuple[Task, dict[str, Any]]]:
    """What becomes of the tasks, which are taken out of `waiting` as they end; until `end` when they were asked to."""
    told: dict[str, dict[str, Any]] = {}
    missed: dict[str, float] = {}
    while waiting and (end is None or time.monotonic() < end):
        gone = engine.gone(waiting)
        heard = outcomes.heard()
        for key, task in list(waiting.items()):
            outcome = heard.get(key)
            late = key in gone and time.monotonic() - missed.setdefault(key, time.monotonic()) > GRACE
            said = "running" if outcome is None else outcome["status"]
            last = said in FINAL or (key in gone and said != "running")
            if last or late:
                del waiting[key]
                if late or outcome != told.get(key):
                    yield task, _plain(outcome) if last else _silent(task, outcome, gone[key], end is not None)
                outcomes.forget(key)
            elif outcome is not None and outcome != told.get(key):
                told[key] = outcome
                yield task, _plain(outcome)
        time.sleep(engine.look if waiting else 0)


def _plain(outcome: dict[str, Any] | None) -> dict[str, Any]:
    return {"reason": None, **{name: one for name, one in (outcome or {}).items() if name not in OF_THE_WORKER}}


def _silent(task: Task, outcome: dict[str, Any] | None, why: str, stopped: bool) -> dict[str, Any]:
    """The outcome of a task whose worker ended without a last word."""
    if stopped and outcome is None:
        return {"status": "not run", "reason": "the sweep was stopped before"}
    status = "interrupted" if stopped else "failed"
    return {"status": status, "reason": f"its worker ended without a word ({why}); see {task.log}"}
