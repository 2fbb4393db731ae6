"""reproduce: a saved config again, in a new run directory, and the numbers compared."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdrun.canonical import Plain
from kdrun.errors import UsageError
from kdrun.records.files import read_json
from kdrun.records.run import completed, read_config
from kdrun.stages.distill import distill
from kdrun.stages.evaluate import evaluate_run
from kdrun.stages.train import train

log = logging.getLogger("kdrun")
STAGES: dict[str, Callable[[Plain], Path]] = {"train": train, "distill": distill, "evaluate": evaluate_run}
TIMES = ("_seconds", "_per_second")  # endings of what no two runs share


def reproduce(run: Path, changes: dict[str, Any]) -> tuple[Path, list[tuple[str, Any, Any]]]:
    """The new run directory, and `(key, recorded, got)` for every number that differs.

    `changes` may hold `data_dir` and `device.threads`, which say where and not what; threads default to the recorded
    number. Raises `UsageError` when the run did not complete.
    """
    info = completed(run)
    config = _again(read_config(run), info, changes)
    if config["stage"] not in STAGES:
        raise UsageError(f"{run}: stage {config['stage']!r} cannot be reproduced; allowed: {', '.join(STAGES)}")
    made = STAGES[config["stage"]](config)
    return made, differences(read_json(run / "summary.json"), read_json(made / "summary.json"))


def differences(recorded: Plain, got: Plain) -> list[tuple[str, Any, Any]]:
    """Every number that is not the same to the last bit; times are left out."""
    keys = [key for key in {**recorded, **got} if not key.endswith(TIMES)]
    return [(key, recorded.get(key), got.get(key)) for key in keys if recorded.get(key) != got.get(key)]


def _again(config: Plain, info: dict[str, Any], changes: dict[str, Any]) -> Plain:
    threads = changes.get("device.threads", info["device"]["threads"])
    return {
        **config,
        "run_dir": None,
        "data_dir": changes.get("data_dir", config["data_dir"]),
        "device": {**config["device"], "threads": threads},
    }
