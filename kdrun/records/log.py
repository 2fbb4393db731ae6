"""log.txt: everything that was said, from the first word of the command on."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from kdrun.records import lock
from kdrun.records.files import appended, unwritable
from kdrun.redact import redacted

FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(message)s")


class Earlier(logging.Handler):
    """Remembers what is said, so that a run directory made later can have it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class LogFile(logging.Handler):
    """The log of one run directory. Its file is also the lock of the directory: see `held`."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.DEBUG)
        self.path = path
        self.file = appended(path)
        self.held = lock.take(self.file)
        self.setFormatter(FORMAT)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.file.write(redacted(self.format(record)) + "\n")
            self.file.flush()
        except OSError as error:
            logging.getLogger("kdrun").removeHandler(self)  # or the next message would fail as this one did
            raise unwritable(self.path, len(record.msg), error) from error

    def close(self) -> None:
        super().close()
        with contextlib.suppress(OSError):  # a full disk: that has been complained about already
            self.file.close()


def append_log(run: Path, text: str) -> None:
    """A finished run's table, for those who read its log later."""
    try:
        with appended(run / "log.txt") as file:
            file.write(f"\n{text}\n")
    except OSError as error:
        raise unwritable(run / "log.txt", len(text), error) from error
