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

        handler = RichHandler(console=_console(), show_time=False, show_path=False, show_level=False, markup=False)
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
    with Progress(*columns, console=_console(), transient=True) as progress:
        task = progress.add_task(title, total=epochs, completed=start, said="")
        yield Bar(progress, task, epochs, start, batch_size)


def counted(items: Iterable[Item], total: int, title: str) -> Iterator[Item]:
    """The items, with a bar that counts them on a terminal."""
    if not sys.stdout.isatty():
        yield from items
        return
    from rich.progress import track

    yield from track(items, description=title, total=total, console=_console(), transient=True)


class SweepTable:
    """What the jobs of a sweep are doing: a live table on a terminal, a line per event elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.jobs = total, dict[str, dict[str, Any]]()
        self.first = ""  # what is made before the jobs
        self._live: Any = None
        self._begin, self._ended = time.monotonic(), 0

    def __enter__(self) -> SweepTable:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(console=_console(), transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def add(self, key: str, job: dict[str, Any]) -> None:
        """A job of the plan; one that is over already is told."""
        self.jobs[key] = job
        if job["status"] != "not run":
            self._tell(job, f"before: {job['status']}")
        self._draw()

    def update(self, key: str, job: dict[str, Any]) -> None:
        self.jobs[key] = job
        self._ended += job["status"] != "running"
        self._tell(job, job["status"])
        self._draw()

    def tell(self, what: str, outcome: dict[str, Any]) -> None:
        """Of something that is made for several jobs before them."""
        self._tell({"setting": what, **outcome}, outcome["status"])
        self.first = f"{outcome['status']}: {what}"
        self._draw()

    def _tell(self, job: dict[str, Any], what: str) -> None:
        if self._live is None:
            place = f" in {job['run']}" if job.get("run") else ""
            reason = f" ({job['reason']})" if job.get("reason") else ""
            print(f"{what}: {job['setting']}{place}{reason}", flush=True)

    def _draw(self) -> None:
        if self._live is None:
            return
        from rich.table import Table

        table = Table("job", "status", "what")
        for job in self.jobs.values():
            table.add_row(job["setting"], job["status"], str(job.get("reason") or job.get("run") or ""))
        left = sum(job["status"] in ("not run", "running") for job in self.jobs.values())
        seconds = (time.monotonic() - self._begin) / max(self._ended, 1) * left
        known = f"about {seconds:,.0f} s" if self._ended else self.first
        table.caption = f"{left} of {self.total} left" + (f", {known}" if known else "")
        self._live.update(table)


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


def _console() -> Any:
    global _CONSOLE
    if _CONSOLE is None:
        from rich.console import Console

        _CONSOLE = Console()
    return _CONSOLE


_CONSOLE: Any = None
