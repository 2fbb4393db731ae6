"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from kdrun import processes
from kdrun.errors import KdrunError
from kdrun.records import foreign

PART = ".part"  # ending of what is being written


def write(path: Path, content: bytes, keep: Path | None = None, once: bool = False) -> None:
    """Write a temporary file beside `path`, sync it, rename it, sync the folder. Raises `KdrunError`.

    What `path` was before is renamed to `keep` where that is given. `once`: of several processes, on several machines,
    that write it at the same time the first one's stays, since others may have mapped it already. Of the processes of a
    run the first one writes.
    """
    if not processes.is_first():
        return
    part = path.with_name(f".{path.name}.{_who()}{PART}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        if not once or not _linked(part, path):
            part.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a left-over part harms nobody, and the error that brought us here counts
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, len(content), error) from error
        raise


def appended(path: Path) -> IO[str]:
    """A text file, opened to write at its end: no link that is followed, and no pipe that is waited for (`OSError`)."""
    return open(path, "a", encoding="utf-8", opener=_as_it_is)


def _as_it_is(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


def _who() -> str:
    """This process, on whatever machine: two of them have one number, and a shared folder."""
    return f"{re.sub('[^A-Za-z0-9-]', '-', platform.node())}.{os.getpid()}"


def is_part_of(part: str, names: Iterable[str]) -> bool:
    """Is this what `write` calls the temporary file of one of these names?"""
    return any(re.fullmatch(rf"\.{re.escape(name)}\.[A-Za-z0-9-]*\.\d+\{PART}", part) for name in names)


def _linked(part: Path, path: Path) -> bool:
    """Give the temporary file its name unless there is a file of that name. False where files have one name only."""
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    except OSError:
        return False
    part.unlink()
    return True


def unwritable(path: Path, size: int, error: OSError) -> KdrunError:
    """Why a file or folder cannot be written, and what to do."""
    there = next((folder for folder in (path, *path.absolute().parents) if folder.is_dir()), Path("/"))
    free = shutil.disk_usage(there).free
    advice = "free some space (`kdrun clean`), or set output_dir=" if error.errno == errno.ENOSPC else "set output_dir="
    return KdrunError(
        f"cannot write {path} ({size:,} bytes needed, {free:,} free): {error.strerror or error}; {advice}"
    )


def write_json(path: Path, content: Any) -> None:
    write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Raises `KdrunError` for a file that is not there or not JSON."""
    return foreign.read_json(path)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # a folder cannot be opened elsewhere
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
