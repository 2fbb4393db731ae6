"""A sweep on disk: what each of its jobs has come to. The jobs themselves are ordinary runs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from kdrun.errors import KdrunError, brief
from kdrun.records import lock
from kdrun.records.files import appended, read_json, unwritable, write, write_json
from kdrun.records.foreign import calls_resolver, read_text
from kdrun.records.runs import PLACES
from kdrun.words import by_key

FORMAT = 1
SEED = "seed="
DONE = ("completed", "reused")
KEY = re.compile(r"\+{0,2}(?![^=]*hydra)\w[^=]*=")  # of a word that is taken from a file: no option, nothing of Hydra's
WHERE = re.compile(r"\+*run_dir|\++output_dir|output_dir@")  # output_dir= alone: replaced by where the sweep lies
AGAIN = "give the command of the sweep again"
NOT_OF_THE_JOB = {
    *(key for key in PLACES if key != "teacher.run"),  # which of two teachers a job has, is what it does
    "sweep",
    "store",
    "checkpoint",
    "log",
    "logger",
    "dataset.workers",
    "dataset.cache",
    "dataset.cache_gb",
}
Job = dict[str, Any]  # job (its key), overrides, setting (those that are swept), status, reason, run, fingerprint


def job_key(config: Mapping[str, Any], swept: Sequence[str] = ()) -> str:
    """The identity of a job: its config without places and without how it is carried out, but for what is `swept`."""
    values = dict(by_key(config))
    own = {key: value for key, value in values.items() if any(f"{key}.".startswith(f"{one}.") for one in swept)}
    return hashlib.sha256(json.dumps({**of_the_job(values.items()), **own}, sort_keys=True).encode()).hexdigest()


def of_the_job(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Those of a config's values by key that say what a job is, not where and how it is carried out."""
    return {key: value for key, value in values if not NOT_OF_THE_JOB & {key, key.partition(".")[0]}}


def without_seed(setting: str) -> str:
    """The words of a job's setting but for its seed: the same for jobs that are taken together."""
    return " ".join(word for word in setting.split() if not word.startswith(SEED))


def seed_of(setting: str) -> str:
    """The seed in the words of a job's setting; empty where it was not swept."""
    return next((word.removeprefix(SEED) for word in setting.split() if word.startswith(SEED)), "")


class Manifest:
    """The jobs of a sweep by key, in the order they were first met. Used as a context: one process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, Job] = {job["job"]: job for job in read_jobs(folder)}

    def __enter__(self) -> Manifest:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = appended(self.folder / ".lock")
        except OSError as error:
            raise unwritable(self.folder, 0, error) from error
        if not lock.take(self._lock):
            self._lock.close()
            raise KdrunError(f"sweep {self.folder} is being run by another process; wait for it, or stop it first")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.close()

    def describe(self, stage: str, words: Sequence[str], launcher: Sequence[str] = ()) -> None:
        """Keep the command, so that the sweep can be gone on with; `launcher`: the words about who carries it out."""
        content = {"format": FORMAT, "stage": stage, "words": list(words), "launcher": list(launcher)}
        write_json(self.folder / "sweep.json", content)

    def log(self, name: str) -> Path:
        """The file that takes what a job says. Raises `KdrunError` where that would be elsewhere."""
        file = self.folder.absolute() / "logs" / f"{name}.txt"
        if file.parent.is_symlink() or file.is_symlink():
            raise KdrunError(f"{file} is a link, or behind one, which is not followed")
        file.parent.mkdir(exist_ok=True)
        return file

    def note(self, key: str, **facts: Any) -> None:
        """What a job has come to; its other facts stay."""
        self.jobs[key] = {**self.jobs.get(key, {"job": key}), **facts}
        lines = "".join(json.dumps(job) + "\n" for job in self.jobs.values())
        write(self.folder / "manifest.jsonl", lines.encode())


def read_jobs(folder: Path) -> list[Job]:
    """The jobs of a sweep. Raises `KdrunError` for a manifest that is none."""
    file = folder / "manifest.jsonl"
    if not file.exists():
        return []
    try:
        jobs = [json.loads(line) for line in read_text(file, 100_000_000).splitlines()]
    except ValueError as error:
        raise KdrunError(f"{file} cannot be read: {error}") from error
    if not all(isinstance(job, dict) and {"job", "overrides", "setting", "status"} <= job.keys() for job in jobs):
        raise KdrunError(f"{file} is not the manifest of a sweep")
    return jobs


def read_sweep(folder: Path) -> tuple[str, list[str], list[str]]:
    """The stage and the words of a sweep's command, and those about its launcher, unchecked. Raises `KdrunError`."""
    content, words = _read_command(folder / "sweep.json")
    launcher = content.get("launcher", [])
    if not isinstance(launcher, list) or not all(isinstance(word, str) for word in launcher):
        raise KdrunError(f"{folder / 'sweep.json'} is not that of a sweep of this kdrun")
    _refuse_calls(folder / "sweep.json", launcher)
    return content["stage"], words, launcher


def read_search(folder: Path) -> tuple[str, int, list[str]]:
    """The search of `kdrun tune`, how many trials, and what they have in common. Raises `KdrunError`."""
    content, words = _read_command(folder / "tune.json")
    words = [word for word in words if not word.startswith(("sweep.name=", "output_dir="))]
    if not str(content.get("search")).isidentifier() or not isinstance(content.get("trials"), int):
        raise KdrunError(f"{folder / 'tune.json'} names no search and no number of trials")
    return content["search"], content["trials"], words


def _read_command(file: Path) -> tuple[dict[str, Any], list[str]]:
    """What a file says of a command. What Hydra itself would obey is refused: it may come from somebody else."""
    content = read_json(file)
    words = content.get("words") if isinstance(content, dict) and content.get("format") == FORMAT else None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise KdrunError(f"{file} is not that of a sweep of this kdrun")
    strange = [word for word in words if not KEY.match(word)]
    if strange or content.get("stage") not in ("train", "train_teacher", "distill", "evaluate"):
        raise KdrunError(f"{file} has more than the keys of a sweep, which is not obeyed")
    for word in filter(WHERE.match, words):
        raise KdrunError(f"{file}: {brief(word)} says where to write, which a file may not; {AGAIN}")
    _refuse_calls(file, words)
    return content, words


def _refuse_calls(file: Path, words: Iterable[str]) -> None:
    """Raise `KdrunError` for a word that would call something of OmegaConf's, as to read an environment variable."""
    for word in words:
        if calls_resolver(word):
            raise KdrunError(f"{file}: {brief(word)} calls a resolver, which a file may not; {AGAIN}")
