"""What the jobs of a sweep are doing: a live table on a terminal, a line per event elsewhere."""

from __future__ import annotations

import re
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from kdrun.errors import KdrunError, brief
from kdrun.progress import console
from kdrun.records.manifest import DONE, Job
from kdrun.reports.sweep import best, settings_of

EPOCH = re.compile(r"epoch (\d+)/(\d+) (?:.* (val accuracy [\d.]+))?")
MOST_RUNNING, MOST_FAILED = 8, 4  # lines of the table
TAIL = 4096  # bytes of a job's log that are looked at


class SweepTable:
    """Told of the jobs as they start and end; what running ones have come to is read from their logs."""

    def __init__(self, total: int) -> None:
        self.total, self.jobs, self.logs = total, dict[str, Job](), dict[str, str]()
        self.first: tuple[str, str] | None = None  # what is made before the jobs, and its log
        self.best = ""
        self._live: Any = None
        self._begin, self._ended = time.monotonic(), 0

    def __enter__(self) -> SweepTable:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(console=console(), transient=True, refresh_per_second=2, get_renderable=self.drawn)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def add(self, key: str, job: Job) -> None:
        """A job of the plan; one that is over already is told."""
        self.jobs[key] = job
        if job["status"] != "not run":
            self._tell(job, f"before: {job['status']}")
        if len(self.jobs) == self.total:
            self._choose()

    def update(self, key: str, job: Job, log: str) -> None:
        self.jobs = {**self.jobs, key: job}  # the table is drawn in a thread of its own
        self.logs = {**self.logs, key: log}
        self.first = None
        self._ended += job["status"] != "running"
        self._tell(job, job["status"])
        if job["status"] != "running":
            self._choose()

    def tell(self, what: str, outcome: Job, log: str) -> None:
        """Of something that is made for several jobs before them."""
        self._tell({"setting": what, **outcome}, outcome["status"])
        self.first = (what, log) if outcome["status"] == "running" else None

    def _tell(self, job: Job, what: str) -> None:
        if self._live is None:
            place = f" in {job['run']}" if job.get("run") else ""
            reason = f" ({job['reason']})" if job.get("reason") else ""
            print(f"{what}: {job['setting']}{place}{reason}", flush=True)

    def _choose(self) -> None:
        """The best so far, by validation; only jobs that have ended have a say."""
        ended = [job for job in self.jobs.values() if job["status"] not in ("not run", "running")]
        if self._live is None or not any(job["status"] in DONE for job in ended):
            return
        try:
            self.best = best(settings_of(ended))
        except KdrunError:  # a summary that cannot be read is told when the table of results is made
            self.best = ""

    def drawn(self) -> Any:
        """Running jobs with their progress, the last that failed; below it counts, time left, and the best so far."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("job", "status", "progress", "", box=None, header_style="dim", expand=True)
        table.columns[0].ratio, table.columns[3].ratio = 2, 3
        table.columns[3].no_wrap = True
        jobs = self.jobs
        running = [(job["setting"], self.logs.get(key, "")) for key, job in jobs.items() if job["status"] == "running"]
        running = [*([self.first] if self.first else []), *running]
        for setting, log in running[:MOST_RUNNING]:
            bar, said = _progress(last_line(log))
            table.add_row(Text(brief(setting)), "running", bar, Text(said, style="dim"))
        if len(running) > MOST_RUNNING:
            table.add_row(f"and {len(running) - MOST_RUNNING} more", "running", "", "")
        failed = [job for job in jobs.values() if job["status"] == "failed"]
        for job in failed[-MOST_FAILED:]:
            reason = Text(brief(job.get("reason") or "no reason recorded"), style="dim")
            table.add_row(Text(brief(job["setting"])), Text("failed", style="red"), "", reason)
        said = f"best so far {self.best.removeprefix('best ')}" if self.best.startswith("best ") else self.best
        return Group(table, Text(self._counted()), *([Text(said)] if said else []))

    def _counted(self) -> str:
        counts: dict[str, int] = {}
        for job in self.jobs.values():
            status = "done" if job["status"] in DONE else job["status"]
            counts[status] = counts.get(status, 0) + 1
        left = counts.get("not run", 0) + counts.get("running", 0)
        told = [f"{counts.get('done', 0)} of {self.total} done"]
        told += [f"{count} {status}" for status, count in counts.items() if status not in ("done", "not run")]
        if self._ended and left:
            seconds = (time.monotonic() - self._begin) / self._ended * left
            told.append(f"about {timedelta(seconds=round(seconds))} left")
        return ", ".join(told)


def last_line(log: str) -> str:
    """The last that a job has said; nothing where it has said nothing yet."""
    try:
        with Path(log).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((brief(line.strip(), 300) for line in reversed(lines) if line.strip()), "")


def _progress(said: str) -> tuple[Any, str]:
    """A bar over the epochs of what is trained now, and how good it is, where the job says so; else its words."""
    from rich.progress_bar import ProgressBar

    read = EPOCH.match(said)
    if read is None:
        return "", said
    bar = ProgressBar(total=int(read[2]), completed=int(read[1]), width=12)
    return bar, f"epoch {read[1]}/{read[2]}" + (f"  {read[3]}" if read[3] else "")
