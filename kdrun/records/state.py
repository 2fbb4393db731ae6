"""What is kept to go on with a training: `last`, and `previous`, which is the `last` before it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdrun import processes
from kdrun.errors import KdrunError, UsageError
from kdrun.records import checkpoints

SHARE = 0.01  # of the time, at most, goes into saving
log = logging.getLogger("kdrun")


class StateFiles:
    """The two newest states of a run. `every`: a number of epochs, or `auto`.

    `auto` saves after every epoch, unless the last save took more than a hundredth of the time since it; then as soon
    as it no longer does. What can be lost is what was done since the last save.
    """

    def __init__(self, folder: Path, every: int | str) -> None:
        self.last, self.previous = folder / "last.pt", folder / "previous.pt"
        self.every = every
        self.took, self.saved_at = 0.0, time.monotonic()

    def due(self, epoch: int) -> bool:
        """Is it time to save, after so many epochs?"""
        if self.every != "auto":
            return epoch % int(self.every) == 0
        return self.took <= SHARE * (time.monotonic() - self.saved_at)

    def save(self, content: Mapping[str, Any]) -> None:
        begin = time.monotonic()
        checkpoints.save(self.last, content, keep=self.previous)
        self.saved_at = time.monotonic()
        self.took = self.saved_at - begin

    def load(self) -> dict[str, Any] | None:
        """The newest whole state, None where there is none. Raises `KdrunError` when all of them are damaged."""
        damaged = []
        for file in (self.last, self.previous):
            if not file.exists():
                continue
            try:
                content = checkpoints.load(file)
            except UsageError as error:
                damaged.append(str(error))
                log.warning("%s", error)
                continue
            if damaged:
                log.warning("going on from %s instead", file)
            return content
        if damaged:
            raise KdrunError(f"{'; '.join(damaged)}: nothing is left to go on from; start again with a new run")
        return None

    def drop(self) -> None:
        """Free the space when the training has ended well."""
        for file in (self.last, self.previous):
            if processes.is_first():
                file.unlink(missing_ok=True)
