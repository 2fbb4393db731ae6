"""resume: a run that was cut off, gone on with in its own directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdrun.records.runs import is_completed, read_config, read_info, refuse_incomplete
from kdrun.saved import checked_run_config
from kdrun.schema import Plain
from kdrun.stages.distill import distill
from kdrun.stages.evaluate import evaluate_run
from kdrun.stages.train import train

STAGES: dict[str, Callable[..., Path]] = {"train": train, "distill": distill, "evaluate": evaluate_run}
log = logging.getLogger("kdrun")


def resume(run: Path) -> Path:
    """Go on with the run to its end, and return its directory; nothing is done when it has ended well.

    Raises `UsageError` when its config is no longer valid or its data, teacher or code give another experiment.
    """
    if is_completed(run):
        log.info("run %s is completed: there is nothing to go on with", run)
        return run
    config = resumed_config(run)
    return STAGES[config["stage"]](config)


def resumed_config(run: Path, folders: Sequence[Path] = ()) -> Plain:
    """The config that goes on with the run. Raises `UsageError` when it is no longer valid.

    `folders` are those of `--config-dir`: a loss of one's own is known by its YAML there.
    """
    return {**saved_config(run, read_info(run), folders), "run_dir": str(run), "resume": "auto"}


def saved_config(run: Path, info: dict[str, Any], folders: Sequence[Path] = ()) -> Plain:
    """A run's config, checked, with the data folder that it used and the threads it had.

    What else is made for it goes where its others are. Raises `KdrunError` for a run that does not say what it did.
    """
    refuse_incomplete(run, info)
    config = checked_run_config(read_config(run), run, folders)
    threads = config["device"]["threads"] or info["device"].get("threads")
    data_dir = config["data_dir"] or info["places"].get("data_dir")
    device = {**config["device"], "threads": threads}
    config = {**config, "data_dir": data_dir, "output_dir": str(_output_dir(run, config, info)), "device": device}
    if "teacher_outputs" in info and "teacher" in config:  # what `auto` chose then; now it depends on what is stored
        config["teacher"] = {**config["teacher"], "outputs": info["teacher_outputs"]}
    return checked_run_config(config, run, folders)  # `run.json` may be anybody's too


def _output_dir(run: Path, config: Plain, info: dict[str, Any]) -> Path:
    """Where the run's teacher and others are, or would be made: a folder that has runs in it already, else `outputs`.

    The config may be somebody else's and name any folder of this machine: nothing is begun in one that has no runs.
    """
    beside = [run.absolute().parents[1]] if run.absolute().parent.name == config["stage"] else []
    for folder in (Path(str(info["places"].get("output_dir"))), *beside):
        if any(folder.glob("*/*/run.json")):
            return folder
    return Path("outputs")
