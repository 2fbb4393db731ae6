"""What a person sees while a run goes on: bars on a terminal, lines anywhere else."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from kdrun.records.log import Earlier

if TYPE_CHECKING:
    from kdrun.engine import Report

Item = TypeVar("Item")
log = logging.getLogger("kdrun")


@contextmanager
def shown(debug: bool = False) -> Iterator[None]:
    """Messages of kdrun on the terminal (through rich, so that bars stay whole) or as plain lines."""
    handler: logging.Handler
    if sys.stdout.isatty():
        from rich.logging import RichHandler

        handler = RichHandler(console=console(), show_time=False, show_path=False, show_level=False, markup=False)
    else:
        handler = logging.StreamHandler(sys.stdout)
    handler.setLevel(logging.DEBUG if debug else logging.INFO)
    handler.addFilter(lambda record: not getattr(record, "in_bar", False) or not sys.stdout.isatty())
    log.setLevel(logging.DEBUG)
    earlier = Earlier()
    log.addHandler(handler)
    log.addHandler(earlier)
    log.propagate = False  # Hydra leaves a handler at the root in a sweep: nothing is said twice
    try:
        yield
    finally:
        log.propagate = True
        log.removeHandler(handler)
        log.removeHandler(earlier)


@contextmanager
def training_bar(title: str, epochs: int, start: int, batch_size: int) -> Iterator[Bar]:
    """A bar over a whole training; on anything but a terminal, nothing: the lines of the epochs say it."""
    if not sys.stdout.isatty():
        yield Bar(None, 0, epochs, start, batch_size)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True) as progress:
        task = progress.add_task(title, total=epochs, completed=start, said="")
        yield Bar(progress, task, epochs, start, batch_size)


def counted(items: Iterable[Item], total: int, title: str) -> Iterator[Item]:
    """The items, with a bar that counts them on a terminal."""
    if not sys.stdout.isatty():
        yield from items
        return
    from rich.progress import track

    yield from track(items, description=title, total=total, console=console(), transient=True)


class Bar:
    """Fed with the reports of `fit`."""

    def __init__(self, progress: Any, task: Any, epochs: int, start: int, batch_size: int) -> None:
        self.progress, self.task, self.epochs, self.batch_size = progress, task, epochs, batch_size
        self.validation = ""
        self._begin, self._images = time.monotonic(), 0
        self._last = (start, 0)

    @property
    def rate(self) -> float:
        """Images per second since the beginning."""
        return self._images / max(time.monotonic() - self._begin, 1e-9)

    def update(self, report: Report) -> None:
        seen = self._last[1] if self._last[0] == report.epoch else 0
        self._images += (report.step - seen) * self.batch_size
        self._last = (report.epoch, report.step)
        if self.progress is None:
            return
        loss = report.metrics["loss"]
        accuracy = report.metrics.get("accuracy", 0.0)
        said = f"epoch {report.epoch + 1}/{self.epochs}  loss {loss:.3f}  accuracy {accuracy:.1%}"
        said += f"{self.validation}  {self.rate:,.0f} images/s"
        self.progress.update(self.task, completed=report.epoch + report.step / report.steps, said=said)

    def epoch(self, report: Report, validation: dict[str, float]) -> None:
        """The line of a finished epoch: in the log always, on screen where there is no bar."""
        told = {key: value for key, value in report.metrics.items() if not key.startswith(("gradient/", "weight/"))}
        told |= {f"val {key}": validation[key] for key in ("accuracy", "nll") if key in validation}
        if "accuracy" in validation:
            self.validation = f"  val {validation['accuracy']:.1%}"
        numbers = "  ".join(f"{key} {value:.4f}" for key, value in told.items())
        line = f"epoch {report.epoch + 1}/{self.epochs}  {numbers}  {self.rate:,.0f} images/s"
        log.info(line, extra={"in_bar": True})


def console() -> Any:
    """The one terminal that bars, tables and messages share."""
    global _CONSOLE
    if _CONSOLE is None:
        from rich.console import Console

        _CONSOLE = Console()
    return _CONSOLE


_CONSOLE: Any = None
