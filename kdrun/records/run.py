"""A run directory: one execution of one stage, and everything that explains its numbers."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import yaml

from kdrun import processes
from kdrun.errors import KdrunError, UsageError
from kdrun.records.environment import code_changes, environment
from kdrun.records.files import PART, read_json, unwritable, write, write_json
from kdrun.records.fingerprint import RESULT_VERSION
from kdrun.records.log import Earlier, LogFile
from kdrun.records.runs import FORMAT, read_info, refuse_changed, refuse_incomplete, unfinished_run
from kdrun.redact import redacted, redacted_values, redacted_words

Line = dict[str, float | int | str]  # of metrics.jsonl
log = logging.getLogger("kdrun")


class Mirror(Protocol):
    """Something that is told what a run records, as it is recorded; one that is gone on with tells it all again."""

    def metrics(self, lines: Sequence[Mapping[str, Any]]) -> None: ...

    def summary(self, numbers: Mapping[str, float | None]) -> None: ...

    def close(self, status: str) -> None: ...


@dataclass(frozen=True)
class About:
    """What a run records of itself when it begins."""

    stage: str
    what: str  # a word or two for the directory's name
    config: Mapping[str, Any]
    fingerprint: str
    data: Mapping[str, Any] = field(default_factory=dict)
    device: Mapping[str, Any] = field(default_factory=dict)
    parents: Sequence[Mapping[str, Any]] = ()
    overrides: Sequence[str] = ()
    places: Mapping[str, Any] = field(default_factory=dict)  # folders on this machine
    facts: Mapping[str, Any] = field(default_factory=dict)  # what else a stage has to record


class Run:
    """A run being written. Used as a context: leaving it sets the status to completed, interrupted or failed."""

    def __init__(self, path: Path, info: dict[str, Any], log_file: LogFile | None) -> None:
        self.path, self.info = path, info
        self.history: list[Line] = []  # the lines of metrics.jsonl
        self.mirrors: list[Mirror] = []
        self._begin = time.monotonic()
        self._log = log_file

    @classmethod
    def begin(cls, about: About, unfinished: Path | None = None) -> Run:
        """A new directory, made exclusively; or `unfinished`, a run that stopped, to go on with.

        Of several processes the first makes and writes it, and the others are told.
        Raises `KdrunError` when another process is at work in it, or where a host does not see what another has made,
        and `UsageError` when it is another experiment.
        """
        run: Any = processes.told(lambda: cls._written(about, unfinished), lambda run: (run.path, run.info))
        return run if isinstance(run, Run) else cls(processes.seen(run[0]), run[1], None)

    @classmethod
    def _written(cls, about: About, unfinished: Path | None) -> Run:
        path = _make_directory(about) if unfinished is None else unfinished
        try:
            log_file = LogFile(path / "log.txt")
        except OSError as error:
            raise unwritable(path / "log.txt", 0, error) from error
        try:
            if not log_file.held:
                raise KdrunError(f"run {path} is being written by {_holder(path)}; wait for it, or stop it first")
            before = None if unfinished is None or not (path / "run.json").exists() else read_info(path)
            if before is not None:
                _refuse_other(path, before, about)
            return cls._open(path, about, before, log_file)
        except BaseException:
            log_file.close()
            raise

    @classmethod
    def _open(cls, path: Path, about: About, before: Mapping[str, Any] | None, log_file: LogFile) -> Run:
        """Write what is known at the start, and tidy up after an attempt that was cut off."""
        for folder in (path, path / "checkpoints"):
            for part in folder.glob(f".*{PART}"):
                part.unlink()
        try:
            (path / "checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(path / "checkpoints", 0, error) from error
        info = {
            "format": FORMAT,
            "stage": about.stage,
            "status": "running",
            "fingerprint": about.fingerprint,
            "result_version": RESULT_VERSION,
            "attempts": 1 if before is None else before["attempts"] + 1,
            "process": {"id": os.getpid(), "host": platform.node()},
            "started": _now() if before is None else before["started"],
            "command": _command(),
            "seeds": _seeds(about.config),
            "data": dict(about.data),
            "device": dict(about.device),
            "parents": [dict(parent) for parent in about.parents],
            "places": dict(about.places),
            **about.facts,
            **environment(),
        }
        if before is not None:
            info["duration_seconds"] = before.get("duration_seconds", 0.0)
        run = cls(path, info, log_file)
        if before is None:
            changes = code_changes()
            if changes is not None:
                write(path / "code.diff", redacted(changes).encode())
            write(path / "config.yaml", yaml.safe_dump(redacted_values(about.config), sort_keys=False).encode())
            write(path / "overrides.yaml", yaml.safe_dump(redacted_words(about.overrides)).encode())
        run._write_info()
        return run

    def metrics(self, *lines: Line) -> None:
        """Further lines of `metrics.jsonl`."""
        self._record([*self.history, *lines], lines)

    def recall(self, history: Sequence[Line]) -> None:
        """Make these the lines of `metrics.jsonl`: those that a state knows of, when a training goes on from it."""
        self._record(history, history)

    def _record(self, history: Sequence[Line], told: Sequence[Line]) -> None:
        self.history = list(history)
        write(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.history).encode())
        for mirror in self.mirrors:
            mirror.metrics(told)

    def summary(self, numbers: Mapping[str, float | None]) -> None:
        write_json(self.path / "summary.json", dict(numbers))
        for mirror in self.mirrors:
            mirror.summary(numbers)

    def document(self, name: str, content: Any) -> None:
        """A further JSON file."""
        write_json(self.path / f"{name}.json", content)

    def note(self, **facts: Any) -> None:
        """Facts that are known only later."""
        self.info.update(facts)
        self._write_info()

    def checkpoint(self, name: str) -> Path:
        return self.path / "checkpoints" / f"{name}.pt"

    def __enter__(self) -> Run:
        if self._log is None:
            return self
        for record in _said_before():
            self._log.emit(record)
        log.addHandler(self._log)
        again = "" if self.info["attempts"] == 1 else f", attempt {self.info['attempts']}"
        log.info("%s in %s%s", self.info["stage"], self.path, again)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._log is None:
            return
        try:
            self._conclude(kind, error)
        except KdrunError:  # a full disk: whoever reads the run sees that nobody is at work in it
            if kind is None:
                raise
        finally:
            log.removeHandler(self._log)
            self._log.close()

    def _conclude(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        status = "completed"
        if kind is not None:
            status = "interrupted" if issubclass(kind, KeyboardInterrupt | SystemExit) else "failed"
            self.info["reason"] = redacted(f"{kind.__name__}: {error}")
        seconds = self.info.get("duration_seconds", 0.0) + time.monotonic() - self._begin
        self.info |= {"status": status, "finished": _now(), "duration_seconds": seconds}
        self._write_info()
        if status == "failed":
            log.error("failed: %s", self.info["reason"])
        elif status == "interrupted":
            log.info("interrupted; `kdrun resume %s` goes on", self.path)

    def _write_info(self) -> None:
        write_json(self.path / "run.json", redacted_values(self.info))


def _refuse_other(path: Path, before: Mapping[str, Any], about: About) -> None:
    """Raise `UsageError` unless `about` is the experiment that the run was, `KdrunError` where it does not say so."""
    refuse_incomplete(path, before)
    if before["status"] == "completed":
        raise UsageError(f"run {path} is completed; there is nothing to go on with")
    refuse_changed(path, about.config)
    if before["fingerprint"] != about.fingerprint:
        raise UsageError(
            f"run {path} cannot be gone on with: its data, teacher or initial weights have changed, or kdrun's code "
            "gives other numbers now; begin a new run"
        )


def _holder(path: Path) -> str:
    """Who is at work in a run, in words."""
    info = read_json(path / "run.json") if (path / "run.json").is_file() else {}
    process = info.get("process", {})
    return f"process {process.get('id', '(starting)')} on {process.get('host', 'this machine')}"


def _said_before() -> list[logging.LogRecord]:
    return [record for handler in log.handlers if isinstance(handler, Earlier) for record in handler.records]


def _make_directory(about: About) -> Path:
    config = about.config
    if config.get("run_dir") is not None:
        unfinished_run(config)
        path = Path(config["run_dir"])
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(path, 0, error) from error
        return path
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    name = f"{now}_{about.what}_{about.fingerprint[:8]}"
    folder = Path(config["output_dir"]) / about.stage
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, 0, error) from error
    for attempt in range(1000):
        path = folder / (name if attempt == 0 else f"{name}-{attempt + 1}")
        try:
            path.mkdir()
        except FileExistsError:
            continue  # made by another run in the same second
        except OSError as error:
            raise unwritable(path, 0, error) from error
        return path
    raise KdrunError(f"a thousand runs named {name} exist in {folder}")


def _seeds(config: Mapping[str, Any]) -> dict[str, int]:
    seeds = {"seed": config.get("seed", 0), "teacher.seed": (config.get("teacher") or {}).get("seed")}
    seeds |= {f"dataset.{key}": config.get("dataset", {}).get(key) for key in ("split_seed", "view_seed")}
    return {key: value for key, value in seeds.items() if value is not None}


def _command() -> list[str]:
    return ["kdrun", *redacted_words(sys.argv[1:])]


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
