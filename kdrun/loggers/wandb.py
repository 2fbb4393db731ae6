"""Weights & Biases: offline in the run directory, or online with a key from the environment."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from kdrun.loggers import by_epoch
from kdrun.records.run import Mirror, Run

REQUIRES = "wandb"


class WandB:
    def __init__(self, run: Run, config: Mapping[str, Any], project: str, mode: str) -> None:
        import wandb

        how: Any = mode
        settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
        name = run.path.name  # also the group: online, each attempt is a run there, and the last one has all lines
        for folder in run.path.glob("wandb/offline-run-*"):  # of an attempt before
            shutil.rmtree(folder)
        self.run = wandb.init(
            project=project,
            mode=how,
            name=name,
            group=name,
            dir=str(run.path),
            config=dict(config),
            settings=settings,
        )
        self.run.define_metric("*", step_metric="epoch")

    def metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        for epoch, values in by_epoch(lines).items():
            self.run.log({**values, "epoch": epoch})

    def summary(self, numbers: Mapping[str, float | None]) -> None:
        self.run.summary.update({name: value for name, value in numbers.items() if value is not None})

    def close(self, status: str) -> None:
        self.run.finish(exit_code=0 if status == "completed" else 1)


def open(run: Run, config: Mapping[str, Any], project: str, mode: str) -> Mirror:  # noqa: A001
    return WandB(run, config, project, mode)
