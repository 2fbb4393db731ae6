"""A run directory: one execution of one stage, and everything that explains its numbers."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import yaml

from kdrun import processes
from kdrun.errors import KdrunError, UsageError
from kdrun.records import lock
from kdrun.records.environment import code_changes, environment
from kdrun.records.files import PART, read_json, unwritable, write, write_json
from kdrun.records.fingerprint import RESULT_VERSION
from kdrun.records.foreign import read_yaml
from kdrun.records.log import Earlier, LogFile
from kdrun.redact import redacted, redacted_values, redacted_words

FORMAT = 1
Line = dict[str, float | int | str]  # of metrics.jsonl
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
    if not {"status", "fingerprint"} <= info.keys():
        raise UsageError(f"{run / 'run.json'} is not whole: it has no status or no fingerprint")
    return info


def status(run: Path, info: Mapping[str, Any]) -> str:
    """The status of a run. One that says it is running while nobody is at work in it was cut off: interrupted."""
    if info["status"] == "running" and not lock.is_taken(run / "log.txt"):
        return "interrupted"
    return str(info["status"])


def completed(run: Path) -> dict[str, Any]:
    """`read_info` of a run that has ended well. Raises `UsageError` otherwise."""
    info = read_info(run)
    if info["status"] != "completed":
        raise UsageError(
            f"run {run} is {status(run, info)}, not completed ({info.get('reason', 'no reason recorded')}); "
            f"`kdrun resume {run}` goes on with it"
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
            return path
    return None


def _with_fingerprint(output_dir: Path, fingerprint: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(output_dir.glob(f"*/*_{fingerprint[:8]}*"), reverse=True):
        if (path / "run.json").is_file():
            info = read_json(path / "run.json")
            if info.get("fingerprint") == fingerprint and info.get("format") == FORMAT:
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
    begun = path.is_dir() and (path / "log.txt").is_file()  # the first thing that a run writes
    if not begun:
        raise UsageError(f"run_dir={path} is not a run directory; nothing is overwritten: choose another name")
    return path


def same_before(config: Mapping[str, Any], fingerprint: str) -> tuple[Path | None, Path | None]:
    """With `resume=auto` and no `run_dir`: the completed run of this config, or the one to go on with, if any."""
    if config.get("resume") != "auto" or config.get("run_dir") is not None:
        return None, None
    outputs = Path(config["output_dir"])
    return find_completed(outputs, fingerprint), find_unfinished(outputs, fingerprint)


def is_completed(path: Path | None) -> bool:
    """Is there a run at this place that has ended well?"""
    return path is not None and (path / "run.json").is_file() and read_info(path)["status"] == "completed"


def _refuse_other(path: Path, before: Mapping[str, Any], about: About) -> None:
    """Raise `UsageError` unless `about` is the experiment that the run was."""
    if before["status"] == "completed":
        raise UsageError(f"run {path} is completed; there is nothing to go on with")
    refuse_changed(path, about.config)
    if before["fingerprint"] != about.fingerprint:
        raise UsageError(
            f"run {path} cannot be gone on with: its data, teacher or initial weights have changed, or kdrun's code "
            "gives other numbers now; begin a new run"
        )


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
    for attempt in range(1000):
        path = folder / (name if attempt == 0 else f"{name}-{attempt + 1}")
        try:
            path.mkdir(parents=True)
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
