"""TensorBoard: event files in the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdrun.loggers import scalars
from kdrun.records.run import Mirror, Run

REQUIRES = "tensorboard"


class TensorBoard:
    def __init__(self, folder: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(folder)

    def metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        for name, value, epoch in scalars(lines):
            self.writer.add_scalar(name, value, epoch)

    def summary(self, numbers: Mapping[str, float | None]) -> None:
        for name, value in numbers.items():
            if value is not None:
                self.writer.add_scalar(f"summary/{name}", value, 0)

    def close(self, status: str) -> None:
        self.writer.close()


def open(run: Run, config: Mapping[str, Any]) -> Mirror:  # noqa: A001
    folder = run.path / "tensorboard"
    for events in folder.glob("events.out.tfevents.*"):  # of an attempt before: its lines would be there twice
        events.unlink()
    return TensorBoard(str(folder))
