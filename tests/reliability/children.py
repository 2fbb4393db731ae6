"""Child processes that run kdrun and die, or run out of disk, at the k-th file operation of their working folder.

They start from a `forkserver` that has imported torch and computed nothing: a fork after one operation hangs.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMPORTED = [
    "torch._dynamo",  # imported by the first optimizer
    "sklearn.datasets",
    "hydra",
    "rich",
    "kdrun.config",
    "kdrun.stages.distill",
    "kdrun.stages.evaluate",
    "kdrun.stages.resume",
    "kdrun.reports.outcome",
    "tests.reliability.children",
]


STARTED: list[Any] = []


@dataclass(frozen=True)
class Ending:
    """How a child ended: its exit code (negative: the signal that killed it), what it said, and its file operations."""

    code: int
    out: str
    err: str
    operations: list[str]


def run(
    folder: Path,
    words: Sequence[str],
    config: dict[str, Any] | None = None,
    at: int | None = None,
    how: str = "kill",
    spoil: Callable[[], None] | None = None,
) -> Ending:
    """`kdrun <words>` in a child process whose working folder is `folder`.

    `config` stands for the composed one (composing costs more than the run does). At file operation number `at`,
    counted from 0, the child is killed, or (`how="full"`) the disk is full from then on. `spoil` is called first, in
    the child: a mistake to be noticed. A child that nobody kills ends within a minute or two.
    """
    child = start(folder, words, config, at, how, spoil)
    return ended(child, folder)


def start(folder: Path, words: Sequence[str], *rest: Any) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    child = context.Process(target=_main, args=(str(folder), list(words), *rest))
    child.start()
    STARTED.append(child)
    return child


def kill_all() -> None:
    """After a test, also one that failed: no child outlives it, nor do the workers of a child."""
    for child in STARTED:
        with contextlib.suppress(ValueError, ProcessLookupError):  # closed, or gone
            if child.is_alive():
                os.killpg(child.pid, signal.SIGKILL)
            child.join()
            child.close()
    STARTED.clear()


def ended(child: Any, folder: Path, seconds: float = 120) -> Ending:
    child.join(seconds)
    assert child.exitcode is not None, f"a child did not end within {seconds} s"
    code = child.exitcode
    pid = child.pid
    child.close()
    said = [_beside(folder, pid, name).read_text() for name in ("out", "err", "operations")]
    for name in ("out", "err", "operations"):
        _beside(folder, pid, name).unlink()
    return Ending(code, said[0], said[1], said[2].splitlines())


def _beside(folder: Path, pid: int, name: str) -> Path:
    return folder.parent / f"{folder.name}.{pid}.{name}"


def _main(
    folder: str,
    words: list[str],
    config: dict[str, Any] | None = None,
    at: int | None = None,
    how: str = "kill",
    spoil: Callable[[], None] | None = None,
) -> None:
    """In the child."""
    here = Path(folder)
    for name, number in (("out", 1), ("err", 2)):
        handle = os.open(_beside(here, os.getpid(), name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.setpgid(0, 0)  # a test may signal the whole group
    code = 70
    try:
        import kdrun.config
        from kdrun import cli

        if config is not None:
            kdrun.config.stage_config = lambda *_: config  # type: ignore[assignment]
        if spoil is not None:
            spoil()
        sys.argv = ["kdrun", *words]
        Watch(here, at, how).begin()
        code = cli.main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Watch:
    """Counts what is done to files below a folder, and makes operation number `at` the last, or the first to fail."""

    def __init__(self, folder: Path, at: int | None, how: str) -> None:
        self.folder, self.at, self.how, self.count = folder.resolve(), at, how, 0
        self.list = os.open(_beside(folder, os.getpid(), "operations"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def begin(self) -> None:
        opened = io.open

        def watched_open(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            writes = not isinstance(file, int) and set(mode) & set("wax+") and self.inside(file)
            if not writes:
                return opened(file, mode, *rest, **more)
            self.operation(f"open {file}")
            return _File(opened(file, mode, *rest, **more), self, str(file))

        builtins.open = io.open = watched_open  # type: ignore[assignment]
        for name in ("link", "replace", "rename", "mkdir", "unlink", "remove"):
            setattr(os, name, self._counted(name, getattr(os, name)))
        synced = os.fsync
        os.fsync = lambda handle: (self.operation("fsync"), synced(handle))[1]  # type: ignore[assignment]

    def _counted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: Any, *rest: Any, **more: Any) -> Any:
            if self.inside(path):
                self.operation(f"{name} {' '.join(str(word) for word in (path, *rest[:1]))}")
            return original(path, *rest, **more)

        return counted

    def inside(self, path: Any) -> bool:
        return Path(os.fsdecode(path)).absolute().is_relative_to(self.folder)

    def operation(self, said: str, before: Callable[[], Any] = lambda: None) -> None:
        """One more operation. `before`: what still happens of it when it is the last one."""
        number, self.count = self.count, self.count + 1
        if self.at is not None and number == self.at and self.how == "kill":
            before()
            os.kill(os.getpid(), signal.SIGKILL)
        grows = said.split()[0] in ("open", "write", "mkdir", "fsync")  # the others need no space
        if self.at is not None and number >= self.at and self.how == "full" and grows:
            before()
            raise OSError(errno.ENOSPC, "No space left on device")
        os.write(self.list, f"{said}\n".encode())


class _File:
    """A file whose writes are counted; the last one is cut in half."""

    def __init__(self, file: Any, watch: Watch, name: str) -> None:
        self._file, self._watch, self._name = file, watch, name

    def write(self, content: Any) -> Any:
        def half() -> None:
            self._file.write(content[: len(content) // 2])
            self._file.flush()

        self._watch.operation(f"write {self._name}", before=half)
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)
