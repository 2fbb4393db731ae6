"""A sweep: plans its jobs, leaves out what is done, and has the rest carried out, by processes here or by an engine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.config import stage_config
from kdrun.errors import KdrunError
from kdrun.launchers import Engine, Launcher
from kdrun.records.manifest import DONE, Manifest, job_key
from kdrun.redact import redacted
from kdrun.sweeps import children, remote
from kdrun.sweeps.children import Task
from kdrun.sweeps.jobs import jobs_of, swept_keys
from kdrun.sweeps.shared import needs
from kdrun.sweeps.table import SweepTable


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was typed. `shared`: its jobs need the same teacher's outputs. No `launcher`: processes here."""

    stage: str
    words: list[str]
    folder: Path
    config_dirs: Sequence[Path] = ()
    plugins: Sequence[str] = ()
    shared: bool = False
    debug: bool = False
    launcher: Launcher | None = None


def carry_out(sweep: Sweep) -> int:
    """Run the jobs that are not done, each in its own process. Returns the worst exit code of them all."""
    jobs = jobs_of(sweep.words)
    engine = None if sweep.launcher is None else sweep.launcher.engine(sweep.folder)
    with Manifest(sweep.folder) as manifest, SweepTable(len(jobs)) as table:
        manifest.describe(sweep.stage, sweep.words, () if sweep.launcher is None else sweep.launcher.words)
        tasks = _to_do(sweep, jobs, manifest, table, engine)
        for task, outcome in _carried_out(sweep, tasks, engine, table):
            manifest.note(task.key, **outcome)
            table.update(task.key, manifest.jobs[task.key], task.log)
        undone = [job for key in table.jobs if (job := manifest.jobs[key])["status"] not in DONE]
    return max((int(job.get("code", 1)) for job in undone), default=0)


def _carried_out(
    sweep: Sweep, tasks: Sequence[Task], engine: Engine | None, table: SweepTable
) -> Iterator[tuple[Task, dict[str, Any]]]:
    if engine is None:
        at_once = max((task.config["sweep"]["jobs"] for task in tasks), default=1)
        yield from children.carried_out(tasks, at_once)
        return
    try:
        hopeless: dict[str, str] = {}  # jobs that need what could not be made, and why
        for wave in needs(tasks):
            made = {need.task.key: need for need in wave}
            for task, outcome in remote.carried_out([need.task for need in wave], engine, sweep.folder):
                table.tell(f"{task.need} for {len(made[task.key].jobs)} jobs", outcome, task.log)
                if outcome["status"] == "failed":
                    why = f"its {task.need} failed: {outcome['reason']}"
                    hopeless |= dict.fromkeys(made[task.key].jobs, why)
        yield from (
            (task, {"status": "failed", "reason": hopeless[task.key]}) for task in tasks if task.key in hopeless
        )
        yield from remote.carried_out([task for task in tasks if task.key not in hopeless], engine, sweep.folder)
    finally:
        engine.close()


def _to_do(
    sweep: Sweep, jobs: Sequence[list[str]], manifest: Manifest, table: SweepTable, engine: Engine | None
) -> list[Task]:
    """The jobs that are not done, with their configs; a job whose config is wrong has failed already."""
    tasks, swept = [], swept_keys(sweep.words)
    for number, overrides in enumerate(jobs):
        own = [word for word in overrides if word.partition("=")[0] in swept]
        facts = {"overrides": overrides, "setting": redacted(" ".join(own))}
        try:
            config = stage_config(sweep.stage, overrides, sweep.config_dirs)
        except KdrunError as error:
            key = hashlib.sha256(" ".join(overrides).encode()).hexdigest()
            wrong = {"status": "failed", "reason": redacted(str(error)), "code": error.exit_code}
            manifest.note(key, **facts, **wrong)
        else:
            key = job_key(config, swept)
            if not _is_over(manifest.jobs.get(key, {}), config["sweep"]["retry_failed"]):
                manifest.note(key, **facts, status="not run", reason=None)
                log = manifest.log(f"{number:04d}_{key[:8]}")
                tasks.append(_task(sweep, key, _threaded(config, engine), overrides, log))
        table.add(key, manifest.jobs[key])
    return tasks


def _task(sweep: Sweep, key: str, config: dict[str, Any], overrides: list[str], log: Path) -> Task:
    return Task(
        key=key,
        config={**config, "resume": "auto"},  # a job that was cut off, or that somebody ran alone, is found again
        overrides=overrides,
        log=str(log),
        plugins=list(sweep.plugins),
        shared=sweep.shared,
        debug=sweep.debug,
        place=str(Path.cwd()),
    )


def _threaded(config: dict[str, Any], engine: Engine | None) -> dict[str, Any]:
    """With the threads that a job has where nobody said how many."""
    at_once = config["sweep"]["jobs"]
    here = max(1, (os.cpu_count() or 1) // at_once) if at_once > 1 else None
    threads = here if engine is None else engine.threads
    if config["device"]["threads"] is not None or threads is None:
        return config
    return {**config, "device": {**config["device"], "threads": threads}}


def _is_over(before: dict[str, Any], retry_failed: bool) -> bool:
    """Is there nothing to do for a job, by what the manifest says of it?"""
    if before.get("status") in DONE:
        return (Path(str(before.get("run"))) / "run.json").exists()  # a run that was deleted is run again
    return before.get("status") == "failed" and not retry_failed


def sweep_name(stage: str, words: Sequence[str], swept: Sequence[str]) -> str:
    """A name that is the same whatever values the swept keys have: a larger grid is the same sweep."""
    fixed = [word for word in words if word.partition("=")[0] not in (*swept, "sweep.jobs", "sweep.retry_failed")]
    text = "\n".join([stage, *sorted(fixed), *sorted(swept)])
    keys = "_".join(key.rpartition(".")[2] for key in sorted(swept))[:60] or "one"
    return f"{stage}_{keys}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
