"""Runs that are on disk already: read, found again, and refused where another experiment would go on with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdrun.errors import KdrunError, UsageError, brief
from kdrun.records import lock
from kdrun.records.files import is_part_of, read_json
from kdrun.records.foreign import read_text, read_yaml, refuse_leading_out

FORMAT = 1
MOST_OF_A_HISTORY = 100_000_000  # bytes
FIRST = ("code.diff", "config.yaml", "overrides.yaml", "run.json")  # the files that a run begins with, in this order
STATUSES = ("running", "completed", "failed", "interrupted")
# what a run is gone on with, or made again, by
FACTS = {"attempts": int, "started": str, "code": str, "data": dict, "device": dict, "places": dict, "versions": dict}
# what may change in a resumed run
PLACES = (
    "run_dir",
    "resume",
    "data_dir",
    "output_dir",
    "teacher.run",
    "teacher.outputs",
    "device.threads",
    "sweep.name",
    "sweep.jobs",
    "sweep.retry_failed",
    "launch.processes",
)


def read_config(run: Path) -> dict[str, Any]:
    """A run's saved config, as data. Raises `KdrunError`."""
    file = run / "config.yaml"
    content = read_yaml(file)
    if "stage" not in content:
        raise KdrunError(f"{file} is not the config of a kdrun run")
    return content


def read_info(run: Path) -> dict[str, Any]:
    """A run's `run.json`. Raises `UsageError` when the directory is no run, or one of another format."""
    if not (run / "run.json").exists():
        raise UsageError(f"{run} is not a run directory: it has no run.json; `kdrun list runs` shows those there are")
    info = read_json(run / "run.json")
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise UsageError(f"{run / 'run.json'} has another format than this kdrun reads ({FORMAT})")
    if info.get("status") not in STATUSES or not isinstance(info.get("fingerprint"), str):
        raise UsageError(f"{run / 'run.json'} is not whole: it has no status that there is, or no fingerprint")
    return info


def refuse_incomplete(run: Path, info: Mapping[str, Any]) -> None:
    """Raise `KdrunError` for a `run.json` in which something of `FACTS` is not there, or is something else."""
    lacking = [key for key, kind in FACTS.items() if not isinstance(info.get(key), kind)]
    if lacking:
        raise KdrunError(f"{run / 'run.json'} is not whole: it does not say as it should: {', '.join(lacking)}")


def read_numbers(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run's `summary.json` and the lines of its `metrics.jsonl`, where it trained. Raises `KdrunError`."""
    file, history = run / "summary.json", run / "metrics.jsonl"
    summary = read_json(file)
    if not isinstance(summary, dict) or not all(value is None or _is_number(value) for value in summary.values()):
        raise KdrunError(f"{file} is not whole: it does not map names to numbers")
    try:
        text = read_text(history, MOST_OF_A_HISTORY) if history.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()]
    except (ValueError, RecursionError) as error:
        raise KdrunError(f"{history} cannot be read: {brief(error)}") from error
    for line in lines:
        sound = isinstance(line, dict) and isinstance(line.get("split"), str) and isinstance(line.get("epoch"), int)
        if not sound or not all(isinstance(value, str) or _is_number(value) for value in line.values()):
            raise KdrunError(f"{history} is not whole: its lines are not those of epochs and splits")
    return summary, lines


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def status(run: Path, info: Mapping[str, Any]) -> str:
    """The status of a run. One that says it is running while nobody is at work in it was cut off: interrupted."""
    if info["status"] == "running" and not lock.is_taken(run / "log.txt"):
        return "interrupted"
    return str(info["status"])


def completed(run: Path) -> dict[str, Any]:
    """`read_info` of a run that has ended well. Raises `UsageError` otherwise."""
    info = read_info(run)
    if info["status"] != "completed":
        reason = brief(info.get("reason", "no reason recorded"), 300)
        raise UsageError(
            f"run {run} is {status(run, info)}, not completed ({reason}); `kdrun resume {run}` goes on with it"
        )
    return info


def find_completed(output_dir: Path, fingerprint: str) -> Path | None:
    """The newest completed run with this fingerprint, or None."""
    found = (path for path, info in _with_fingerprint(output_dir, fingerprint) if info["status"] == "completed")
    return next(found, None)


def find_unfinished(output_dir: Path, fingerprint: str) -> Path | None:
    """The newest run with this fingerprint that stopped and has something to go on from, or None."""
    for path, info in _with_fingerprint(output_dir, fingerprint):
        if status(path, info) in ("interrupted", "failed") and any((path / "checkpoints").glob("*.pt")):
            try:
                refuse_leading_out(path)
            except UsageError:  # it was not asked for by name
                continue
            return path
    return None


def _with_fingerprint(output_dir: Path, fingerprint: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(output_dir.glob(f"*/*_{fingerprint[:8]}*"), reverse=True):
        try:
            info = read_info(path)
            refuse_incomplete(path, info)
        except KdrunError:  # one that is damaged, or no run at all, keeps nobody from the others
            continue
        if info["fingerprint"] == fingerprint:
            yield path, info


def unfinished_run(config: Mapping[str, Any]) -> Path | None:
    """What `run_dir` and `resume` ask for: a run to go on with, or None for a new one.

    Raises `UsageError` when `run_dir` is in use and may not be gone on with: asked before anything is trained.
    """
    path = None if config.get("run_dir") is None else Path(config["run_dir"])
    if path is None or not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    if config.get("resume") != "auto":
        raise UsageError(
            f"run_dir={path} exists and is not empty; nothing is overwritten: choose another name, "
            "or go on with it by resume=auto"
        )
    if not path.is_dir() or not ((path / "run.json").exists() or _is_begun(path)):
        raise UsageError(f"run_dir={path} is not a run directory; nothing is overwritten: choose another name")
    refuse_leading_out(path)
    return path


def _is_begun(path: Path) -> bool:
    """Is there no more in this folder than an attempt leaves that was cut off before its `run.json`?

    Until then it has said nothing in its log and saved no state.
    """
    log_file, names = path / "log.txt", {file.name for file in path.iterdir()}
    silent = log_file.is_file() and log_file.stat().st_size == 0
    known = all(name in FIRST or is_part_of(name, FIRST) for name in names - {"log.txt", "checkpoints"})
    if not silent or not known or any((path / "checkpoints").glob("*")):
        return False
    try:
        return "config.yaml" not in names or bool(read_config(path))
    except KdrunError:
        return False


def same_before(config: Mapping[str, Any], fingerprint: str) -> tuple[Path | None, Path | None]:
    """With `resume=auto` and no `run_dir`: the completed run of this config, or the one to go on with, if any."""
    if config.get("resume") != "auto" or config.get("run_dir") is not None:
        return None, None
    outputs = Path(config["output_dir"])
    return find_completed(outputs, fingerprint), find_unfinished(outputs, fingerprint)


def is_completed(path: Path | None) -> bool:
    """Is there a run at this place that has ended well?"""
    return path is not None and (path / "run.json").is_file() and read_info(path)["status"] == "completed"


def refuse_changed(path: Path, config: Mapping[str, Any]) -> None:
    """Raise `UsageError` unless a run's saved config is this one, apart from places."""
    saved = read_config(path)
    if "kind" not in config.get("dataset", {}):  # an evaluation on the data of its model's run
        config = {**config, "dataset": saved.get("dataset")}
    changed = list(_changed(saved, config, ""))
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise UsageError(
            f"run {path} is another experiment, and cannot be gone on with; changed: {', '.join(changed[:5])}{more}; "
            "use its own config (`kdrun resume`), or a new run_dir"
        )


def _changed(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key in {**saved, **now}:
        before, after = saved.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _changed(before, after, f"{prefix}{key}.")
        elif before != after and f"{prefix}{key}" not in PLACES and prefix != "logger.":
            yield f"{prefix}{key} ({before} is now {after})"
