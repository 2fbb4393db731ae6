"""reproduce: a saved config again, in a new run directory, and the two runs compared."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdrun import assembly, processes
from kdrun.errors import KdrunError, brief
from kdrun.progress import shown
from kdrun.records import checkpoints
from kdrun.records.environment import code_fingerprint
from kdrun.records.models import load_model
from kdrun.records.runs import read_info, read_numbers, refuse_incomplete, status
from kdrun.schema import Plain
from kdrun.stages.evaluate import with_dataset
from kdrun.stages.resume import STAGES, saved_config

CHANGES = ("data_dir", "device", "device.threads")  # where and with what, never what


def reproduce(
    run: Path, changes: Plain, rebuild: bool = False, debug: bool = False, folders: Sequence[Path] = ()
) -> Path:
    """Run the saved config again and return the new run directory; where there are several processes, in all of them.

    `changes` may hold `CHANGES`; threads default to the recorded number. Teacher and baseline are found by fingerprint
    or made again; `rebuild` makes them again in any case. `folders` are those of `--config-dir`.
    Raises `KdrunError` when the two could not be compared.
    """
    info = read_info(run)
    comparable(run, info)
    saved = saved_config(run, info, folders)
    config = _again(_from_anywhere(saved, Path(str(info["places"].get("working_dir", "")))), changes)
    with processes.together(config["device"]["name"]), shown(debug):
        return _made(run, info, config, rebuild)


def _made(run: Path, info: Plain, config: Plain, rebuild: bool) -> Path:
    data = assembly.read_data(with_dataset(config) if config["stage"] == "evaluate" else config)
    recorded = info["data"].get("fingerprint")
    if data.fingerprint != recorded:
        raise KdrunError(
            f"cannot compare: the data is another than that of {run} (fingerprint {data.fingerprint[:8]}, recorded "
            f"{brief(recorded)[:8]}); point data_dir= to the same files"
        )
    if config["stage"] == "distill":
        return STAGES["distill"](config, data, rebuild=rebuild, anew=True)
    return STAGES[config["stage"]](config, data)


def comparable(run: Path, info: Plain) -> None:
    """Raise `KdrunError` unless the run can be read, numbers and weights too, and was made by the code that is here."""
    found = status(run, info)
    if found != "completed":
        raise KdrunError(f"cannot compare: {run} is {found}, not completed; `kdrun resume {run}` goes on with it")
    try:
        refuse_incomplete(run, info)
        read_numbers(run)
        if info.get("stage") != "evaluate":
            load_model(run)
    except KdrunError as error:
        raise KdrunError(f"cannot compare: {error}") from error
    if info["code"] != code_fingerprint():
        git = info.get("git")
        commit = git.get("commit") if isinstance(git, dict) else None
        made_by = f"commit {brief(commit)[:12]}" if commit else f"kdrun {brief(info['versions'].get('kdrun'))}"
        diff = f" with the changes in {run / 'code.diff'}" if (run / "code.diff").exists() else ""
        raise KdrunError(
            f"cannot compare: {run} was made by other code ({made_by}{diff}); run that code to reproduce it"
        )


def weights_differ(run: Path, made: Path) -> float | None:
    """The largest difference between the weights of two runs' models, 0 when they are equal to the last bit.

    Infinite for weights of another network, type or shape, or when they are not finite; None for evaluations.
    """
    if read_info(run).get("stage") == "evaluate":
        return None
    files = [folder / "checkpoints" / "model.pt" for folder in (run, made)]
    before, after = (checkpoints.load(file)["state_dict"] for file in files)
    if before.keys() != after.keys():
        return inf
    return max((_apart(before[key], after[key]) for key in before), default=0.0)


def _apart(before: Tensor, after: Tensor) -> float:
    if before.dtype != after.dtype or before.shape != after.shape:
        return inf
    if torch.equal(*(tensor.reshape(-1).view(torch.uint8) for tensor in (before, after))):
        return 0.0
    apart = (before.double() - after.double()).abs().max().item()
    return max(apart, sys.float_info.min) if isfinite(apart) else inf  # -0.0 is not 0.0 to the last bit


def _from_anywhere(config: Plain, working_dir: Path) -> Plain:
    """The config with the paths of models as they were meant in the folder where its run was made."""

    def meant(node: Plain) -> Plain:
        typed = {key: node[key] for key in ("run", "checkpoint") if isinstance(node.get(key), str)}
        there = {key: working_dir / path for key, path in typed.items() if path != "auto"}
        return {**node, **{key: str(path) for key, path in there.items() if path.exists()}}

    return {**meant(config), **{role: meant(config[role]) for role in ("model", "teacher") if role in config}}


def _again(config: Plain, changes: dict[str, Any]) -> Plain:
    device = dict(config["device"])
    device["name"] = changes.get("device", device["name"])
    device["threads"] = changes.get("device.threads", device["threads"])
    data_dir = changes.get("data_dir", config["data_dir"])
    launch = {"processes": processes.count()}
    return {**config, "run_dir": None, "resume": "never", "data_dir": data_dir, "device": device, "launch": launch}
