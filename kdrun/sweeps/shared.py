"""What several jobs of a sweep need and would otherwise each make: their teachers, baselines and stored outputs.

Jobs in processes of one machine wait for one another by a lock. On a cluster nobody promises that locks are honoured,
so these are tasks of their own, carried out before the jobs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from kdrun.identity import baseline_training, teacher_training
from kdrun.records.manifest import job_key
from kdrun.schema import Plain
from kdrun.sweeps.children import Task
from kdrun.sweeps.jobs import OF_THE_TEACHER


@dataclass
class Need:
    """One thing, made by `task`, that the jobs with the keys in `jobs` need."""

    task: Task
    jobs: list[str] = field(default_factory=list)


def needs(tasks: Sequence[Task]) -> list[list[Need]]:
    """What two or more of the tasks need: first what is trained, then the teachers' outputs."""
    trained: dict[str, Need] = {}
    stored: dict[str, Need] = {}
    for task in sorted(tasks, key=lambda one: -one.config.get("epochs", 0)):  # who trains longest needs most views
        for need, identity in _of(task.config):
            found = stored if need == "store" else trained
            own = replace(task, key=f"{need}-{identity}", need=need, log=task.log.replace(".txt", f"_{need}.txt"))
            jobs = found.setdefault(identity, Need(own)).jobs
            jobs += [task.key] if task.key not in jobs else []
    return [[need for need in wave.values() if len(need.jobs) > 1] for wave in (trained, stored)]


def _of(config: Plain) -> Iterator[tuple[str, str]]:
    """Each thing that a job needs, with what identifies it."""
    if config["stage"] != "distill":
        return
    if config["teacher"]["run"] == "auto":
        yield "teacher", job_key(teacher_training(config))
    if config["baseline"]:
        yield "baseline", job_key(baseline_training(config))
    if config["teacher"]["outputs"] != "live":
        kinds = sorted(term["kind"] for term in config["loss"]["terms"].values())  # they decide what may be stored
        content = {**{key: config[key] for key in OF_THE_TEACHER}, "kinds": kinds}
        yield "store", hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
