"""A run directory: one execution of one stage, and everything that explains its numbers."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from kdrun.errors import KdrunError, UsageError
from kdrun.records.files import read_json, write, write_json
from kdrun.records.fingerprint import RESULT_VERSION

FORMAT = 1
PACKAGES = ("kdrun", "torch", "torchvision", "hydra-core", "omegaconf", "numpy", "scikit-learn", "pillow")
log = logging.getLogger("kdrun")


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


class Run:
    """A run being written. Used as a context: leaving it sets the status to completed, interrupted or failed."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path, self.info = path, info
        self._history: list[str] = []
        self._begin = time.monotonic()
        self._log = logging.FileHandler(path / "log.txt")
        self._log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    @classmethod
    def create(cls, about: About) -> Run:
        """Make the directory, exclusively, and write what is known at the start. Raises `UsageError`."""
        path = _make_directory(about)
        (path / "checkpoints").mkdir(exist_ok=True)
        info = {
            "format": FORMAT,
            "stage": about.stage,
            "status": "running",
            "fingerprint": about.fingerprint,
            "result_version": RESULT_VERSION,
            "attempts": 1,
            "started": _now(),
            "command": _command(),
            "seeds": _seeds(about.config),
            "data": dict(about.data),
            "device": dict(about.device),
            "parents": [dict(parent) for parent in about.parents],
            "places": {key: about.config.get(key) for key in ("data_dir", "output_dir")},
            "git": _git(),
            "versions": _versions(),
            "platform": {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()},
        }
        write(path / "config.yaml", yaml.safe_dump(dict(about.config), sort_keys=False).encode())
        write(path / "overrides.yaml", yaml.safe_dump(list(about.overrides)).encode())
        run = cls(path, info)
        run._write_info()
        return run

    def metrics(self, **numbers: float | int | str) -> None:
        """One line of `metrics.jsonl`."""
        self._history.append(json.dumps(numbers))
        write(self.path / "metrics.jsonl", ("\n".join(self._history) + "\n").encode())

    def summary(self, numbers: Mapping[str, float | None]) -> None:
        write_json(self.path / "summary.json", dict(numbers))

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
        log.addHandler(self._log)
        log.info("%s in %s", self.info["stage"], self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status = "completed"
        if kind is not None:
            status = "interrupted" if issubclass(kind, KeyboardInterrupt | SystemExit) else "failed"
            self.info["reason"] = f"{kind.__name__}: {error}"
            log.error("%s: %s", status, self.info["reason"]) if status == "failed" else log.info("%s", status)
        self.info |= {"status": status, "finished": _now(), "duration_seconds": time.monotonic() - self._begin}
        try:
            self._write_info()
        finally:
            log.removeHandler(self._log)
            self._log.close()

    def _write_info(self) -> None:
        write_json(self.path / "run.json", self.info)


def append_log(run: Path, text: str) -> None:
    """A finished run's table, for those who read its log later."""
    with (run / "log.txt").open("a") as file:
        file.write(f"\n{text}\n")


def read_config(run: Path) -> dict[str, Any]:
    """A run's saved config, as data. Raises `KdrunError`."""
    file = run / "config.yaml"
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise KdrunError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict) or "stage" not in content:
        raise KdrunError(f"{file} is not the config of a kdrun run")
    return content


def read_info(run: Path) -> dict[str, Any]:
    """A run's `run.json`. Raises `UsageError` when the directory is no run, or one of another format."""
    if not (run / "run.json").is_file():
        raise UsageError(f"{run} is not a run directory: it has no run.json; `kdrun list runs` shows those there are")
    info = read_json(run / "run.json")
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise UsageError(f"{run / 'run.json'} has another format than this kdrun reads ({FORMAT})")
    return info


def completed(run: Path) -> dict[str, Any]:
    """`read_info` of a run that has ended well. Raises `UsageError` otherwise."""
    info = read_info(run)
    if info["status"] != "completed":
        raise UsageError(
            f"run {run} is {info['status']}, not completed: {info.get('reason', 'it may still be running')}"
        )
    return info


def find_completed(output_dir: Path, fingerprint: str) -> Path | None:
    """The newest completed run with this fingerprint, or None."""
    for path in sorted(output_dir.glob(f"*/*_{fingerprint[:8]}*"), reverse=True):
        if (path / "run.json").is_file():
            info = read_json(path / "run.json")
            if info.get("fingerprint") == fingerprint and info.get("status") == "completed":
                return path
    return None


def refuse_used(config: Mapping[str, Any]) -> None:
    """Raise `UsageError` when `run_dir` names something that is already there: asked before anything is trained."""
    path = None if config.get("run_dir") is None else Path(config["run_dir"])
    if path is not None and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"run_dir={path} exists and is not empty; nothing is overwritten: choose another name")


def _make_directory(about: About) -> Path:
    config = about.config
    if config.get("run_dir") is not None:
        refuse_used(config)
        path = Path(config["run_dir"])
        path.mkdir(parents=True, exist_ok=True)
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
            raise KdrunError(
                f"cannot make run directory {path}: {error.strerror}; set output_dir= or run_dir="
            ) from error
        return path
    raise KdrunError(f"a thousand runs named {name} exist in {folder}")


def _seeds(config: Mapping[str, Any]) -> dict[str, int]:
    seeds = {"seed": config.get("seed", 0), "teacher.seed": (config.get("teacher") or {}).get("seed")}
    seeds |= {f"dataset.{key}": config.get("dataset", {}).get(key) for key in ("split_seed", "view_seed")}
    return {key: value for key, value in seeds.items() if value is not None}


def _command() -> list[str]:
    return ["kdrun", *sys.argv[1:]]


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git() -> dict[str, Any] | None:
    """The commit of kdrun's own checkout and whether it has changes; None when installed without one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        answer = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False
        )
        return answer.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD") or None, "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.TimeoutExpired):
        return None
