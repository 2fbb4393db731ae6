"""MLflow: a local SQLite file beside the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.loggers import scalars
from kdrun.records.run import Mirror, Run
from kdrun.words import by_key

REQUIRES = "mlflow"
LONGEST = 500  # characters of a parameter


class MLflow:
    def __init__(self, run: Run, config: Mapping[str, Any], experiment: str) -> None:
        from mlflow.tracking import MlflowClient

        folder = Path(config["output_dir"]).absolute()
        self.client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        known = self.client.get_experiment_by_name(experiment)
        number = (
            known.experiment_id if known else self.client.create_experiment(experiment, (folder / "mlflow").as_uri())
        )
        self.id = self.client.create_run(number, run_name=run.path.name, tags={"kdrun.run": str(run.path)}).info.run_id
        for key, value in by_key(config):
            self.client.log_param(self.id, key, str(value)[:LONGEST])

    def metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        for name, value, epoch in scalars(lines):
            self.client.log_metric(self.id, name, value, step=epoch)

    def summary(self, numbers: Mapping[str, float | None]) -> None:
        for name, value in numbers.items():
            if value is not None:
                self.client.log_metric(self.id, f"summary/{name}", value)

    def close(self, status: str) -> None:
        self.client.set_terminated(self.id, "FINISHED" if status == "completed" else "FAILED")


def open(run: Run, config: Mapping[str, Any], experiment: str) -> Mirror:  # noqa: A001
    return MLflow(run, config, experiment)
