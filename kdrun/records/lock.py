"""Locks that the system lets go of when their holder dies, however it dies.

POSIX record locks: not inherited by a loader's workers, and not promised on network file systems. Where there are
none (Windows, a shared folder without them), everybody gets the lock. What is shared by machines does not rest on it:
see `Store.write`, and `kdrun.sweeps.shared` for what a sweep trains only once.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from kdrun import processes
from kdrun.records.files import appended, unwritable

try:
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]

WITHOUT = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}  # said by a file system that has no locks
log = logging.getLogger("kdrun")


def take(file: IO[Any], wait: bool = False, byte: int = 0) -> bool:
    """Lock one byte of an open, writable file until it is closed. False when another process has it."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte, os.SEEK_SET)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT:
            raise
    return True


def is_taken(path: Path) -> bool:
    """Does another process hold the lock of this file?"""
    try:
        with path.open("r+b") as file:
            return not take(file)
    except OSError:
        return False  # not there, or nothing that may be written


@contextmanager
def one_at_a_time(folder: Path, fingerprint: str, waiting: str) -> Iterator[None]:
    """Among all runs that work in `folder`, one at a time for a fingerprint; `waiting` is said before a wait.

    Of a run's processes the first one holds the lock: what is done inside begins with what it tells the others.
    """
    if not processes.is_first():
        yield
        return
    byte = int(fingerprint[:14], 16)  # each fingerprint has its own byte of one empty file
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = appended(path)
    except OSError as error:
        raise unwritable(path, 0, error) from error
    with file:
        if not take(file, byte=byte):
            log.info(waiting)
            take(file, wait=True, byte=byte)
        yield
