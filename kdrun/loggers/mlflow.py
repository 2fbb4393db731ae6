"""MLflow: a local SQLite file beside the runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.loggers import scalars
from kdrun.records import lock
from kdrun.records.run import Mirror, Run
from kdrun.words import by_key

REQUIRES = "mlflow"
LONGEST = 500  # characters of a parameter
AT_ONCE = 100  # parameters or metrics of one request
ENDS = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MLflow:
    def __init__(self, run: Run, config: Mapping[str, Any], experiment: str) -> None:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        folder = Path(config["output_dir"]).absolute()
        with (folder / ".mlflow.lock").open("a") as file:  # two jobs of a sweep would both make the tables
            lock.take(file, wait=True)
            self.client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
            known = self.client.get_experiment_by_name(experiment)
            artifacts = (folder / "mlflow").as_uri()
            number = known.experiment_id if known else self.client.create_experiment(experiment, artifacts)
        own = {f"kdrun.{key}": str(run.info[key]) for key in ("fingerprint", "started")}
        for before in self.client.search_runs([number], " and ".join(f"tags.`{k}` = '{v}'" for k, v in own.items())):
            self.client.delete_run(before.info.run_id)  # an attempt before; MLflow can restore it
        tags = {**own, "kdrun.run": str(run.path)}
        self.id = self.client.create_run(number, run_name=run.path.name, tags=tags).info.run_id
        parameters = [Param(key, str(value)[:LONGEST]) for key, value in by_key(config)]
        for some in batched(parameters, AT_ONCE):
            self.client.log_batch(self.id, params=some)

    def metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self._log([(name, value, epoch) for name, value, epoch in scalars(lines)])

    def summary(self, numbers: Mapping[str, float | None]) -> None:
        self._log([(f"summary/{name}", value, 0) for name, value in numbers.items() if value is not None])

    def _log(self, values: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        for some in batched(values, AT_ONCE):
            self.client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value, step in some])

    def close(self, status: str) -> None:
        self.client.set_terminated(self.id, ENDS[status])


def batched(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def open(run: Run, config: Mapping[str, Any], experiment: str) -> Mirror:  # noqa: A001
    return MLflow(run, config, experiment)
