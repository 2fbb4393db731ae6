"""What is kept to go on with a training: `last`, and `previous`, which is the `last` before it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdrun import processes
from kdrun.errors import KdrunError, UsageError, brief
from kdrun.records import checkpoints

WRONG = (AttributeError, LookupError, TypeError, ValueError)  # said by whoever is given another state than its own
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

    def load(self, take: Callable[[dict[str, Any]], object] = lambda state: None) -> dict[str, Any] | None:
        """The newest state that is whole and that `take` takes, None where there is none.

        `take` raises one of `WRONG` for what is no state of its training. Raises `KdrunError` when none is taken.
        """
        refused = []
        for file in (self.last, self.previous):
            if not file.exists():
                continue
            try:
                content = checkpoints.load(file)
                take(content)
            except UsageError as error:
                refused.append(str(error))
            except WRONG as error:
                reason = brief(" ".join(f"{type(error).__name__}: {error}".split()), 200)
                refused.append(f"checkpoint {file} is no state of this training ({reason})")
            else:
                if refused:
                    log.warning("going on from %s instead", file)
                return content
            log.warning("%s", refused[-1])
        if refused:
            raise KdrunError(f"{'; '.join(refused)}: nothing is left to go on from; start again with a new run")
        return None

    def drop(self) -> None:
        """Free the space when the training has ended well."""
        for file in (self.last, self.previous):
            if processes.is_first():
                file.unlink(missing_ok=True)
