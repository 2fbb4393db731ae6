"""From a checked config to an outcome that is shown: what the command line and the jobs of a sweep have in common."""

from __future__ import annotations

import errno
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from kdrun import processes
from kdrun.errors import KdrunError, brief
from kdrun.redact import redacted


def run_stage(config: dict[str, Any], overrides: list[str], debug: bool, shared: bool = False) -> Path:
    """Run a checked config, show its outcome, and return its run directory.

    `shared`: other jobs of a sweep need the same teacher's outputs. In several processes (`launch.processes`, or those
    that torchrun has started) the first one shows it.
    """
    if config["launch"]["processes"] > 1 and not processes.launched():
        from kdrun.launch import launch

        return launch(config["launch"]["processes"], run_stage, config, overrides, debug, shared)
    from kdrun.progress import shown

    gc.enable()
    before = time.time()
    with processes.together(config["device"]["name"]):
        path = processes.told(lambda: _completed_before(config))
        if path is None:
            with shown(debug):
                more = {"shared": shared} if config["stage"] == "distill" else {}
                path = _stage_function(config["stage"])(config, overrides=overrides, **more)
        if processes.is_first():
            show(path, made=(path / "run.json").stat().st_mtime >= before)
    return path


def _completed_before(config: dict[str, Any]) -> Path | None:
    """The completed run that `run_dir` names, if any. Raises `UsageError` when it is another experiment."""
    from kdrun.records.runs import is_completed, refuse_changed, unfinished_run

    begun = unfinished_run(config)
    if begun is None or not is_completed(begun):
        return None
    refuse_changed(begun, config)
    return begun


def show(path: Path, made: bool = True) -> None:
    """Print a run's outcome; `made`: just now, so that its log has to have it too."""
    from kdrun.records.log import append_log
    from kdrun.reports.outcome import outcome

    text = outcome(path)
    if made:
        append_log(path, text)
    else:
        print(f"run {path} is completed: there is nothing to go on with")
    print(f"\n{text}")


@contextmanager
def printing() -> Iterator[None]:
    """What is printed within it reaches standard output, or `KdrunError` says that there is no room for it."""
    try:
        yield
        if sys.stdout is not None:  # closed by whoever started the process
            sys.stdout.flush()  # here, where that has its line, and not as the process ends
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None or not _is_full(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or it would fail once more as the process ends
        raise KdrunError(f"standard output: {error.strerror}") from error


def _is_full(file: TextIO) -> bool:
    """Asked when something was full that has no name: one more line is too much for it."""
    try:
        print(file=file, flush=True)
    except OSError:
        return True
    return False


def in_one_line(error: BaseException) -> str:
    """An error that nobody foresaw, or that the system raised, for people."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{brief(redacted(str(error.filename)))}: a name in this path is longer than a file's can be"
    text = redacted(" ".join(str(error).split()))[:300]
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        advice = "lower batch_size (accumulate= keeps the effective one), try device.precision=bf16 or a smaller model"
        return f"out of memory: {advice} ({text})"
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _stage_function(stage: str) -> Callable[..., Path]:
    """torch is imported here, when the config is known to be sound."""
    if stage == "train":
        from kdrun.stages.train import train

        return train
    if stage == "distill":
        from kdrun.stages.distill import distill

        return distill
    from kdrun.stages.evaluate import evaluate_run

    return evaluate_run
