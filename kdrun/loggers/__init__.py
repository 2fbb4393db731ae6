"""Loggers mirror the record of a run elsewhere. Off by default; the record on disk stays the truth.

A logger is a file here with `REQUIRES` (a package) and `open(run, config, **options)`, which gives a `Mirror`. What an
attempt of the run before has left there is taken away where that can be: the new mirror is told everything again.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kdrun import lookup, processes
from kdrun.errors import UsageError
from kdrun.records.run import Mirror, Run
from kdrun.redact import redacted_values

NONE = {"kind": "none"}
log = logging.getLogger("kdrun")


def require(config: Mapping[str, Any]) -> None:
    """Raise `UsageError`, with the command that installs it, where a chosen logger's package is missing."""
    kind = config.get("logger", NONE)["kind"]
    if kind == "none":
        return
    package = lookup.module("loggers", kind).REQUIRES
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"logger={kind} needs {package}; install it: pip install 'kdrun[{kind}]'")


@contextmanager
def mirrored(run: Run, config: Mapping[str, Any]) -> Iterator[None]:
    """Inside, what the run records goes to the config's logger too. A logger that fails costs a line of the log."""
    options = dict(config.get("logger", NONE))
    kind = options.pop("kind")
    if kind == "none" or not processes.is_first():  # of a run's processes one tells
        yield
        return
    mirror = _Careful(kind, lambda: lookup.module("loggers", kind).open(run, redacted_values(config), **options))
    run.mirrors.append(mirror)
    status = "failed"
    try:
        yield
        status = "completed"
    except (KeyboardInterrupt, SystemExit):
        status = "interrupted"
        raise
    finally:
        run.mirrors.remove(mirror)
        mirror.close(status)


class _Careful:
    """A mirror that does no harm: with the first error it is given up."""

    def __init__(self, kind: str, opened: Callable[[], Mirror]) -> None:
        self.kind = kind
        self.mirror: Mirror | None = None
        with self._at_most_a_warning():
            self.mirror = opened()

    def metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        with self._at_most_a_warning():
            if self.mirror is not None:
                self.mirror.metrics(lines)

    def summary(self, numbers: Mapping[str, float | None]) -> None:
        with self._at_most_a_warning():
            if self.mirror is not None:
                self.mirror.summary(numbers)

    def close(self, status: str) -> None:
        with self._at_most_a_warning():
            if self.mirror is not None:
                self.mirror.close(status)

    @contextmanager
    def _at_most_a_warning(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            log.warning("logger=%s is given up: %s: %s", self.kind, type(error).__name__, error)
            self.mirror = None


def by_epoch(lines: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """The same values, those of an epoch together."""
    found: dict[int, dict[str, float]] = {}
    for name, value, epoch in scalars(lines):
        found.setdefault(epoch, {})[name] = value
    return found


def scalars(lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float, int]]:
    """`(split/metric, value, epoch)` of lines of `metrics.jsonl`."""
    for line in lines:
        for key, value in line.items():
            if key not in ("epoch", "split") and isinstance(value, int | float):
                yield f"{line['split']}/{key}", float(value), int(line["epoch"])
