"""MLflow, by its own client. MLFLOW_TRACKING_URI and the other variables of MLflow's say where runs go."""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.running.trackers.tracker import TrackedRun, Tracker, Value

RUN_ID, GROUP = "flowvae.run_id", "flowvae.group"  # tags; MLflow chooses the ids of its runs itself
COMMIT = "mlflow.source.git.commit"  # a tag that MLflow shows
MAX_PARAMS = 100  # that MLflow takes in one request


class MLflow(Tracker):
    """A run of MLflow, found by a tag. Trials are in an experiment of their study."""

    place = "MLFLOW_TRACKING_URI to a server"

    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient()
        experiment = experiment_id(self.client, run)
        found = self.client.search_runs([experiment], f"tags.`{RUN_ID}` = '{run.run_id}'", max_results=1)
        if found:
            self.run = found[0]
            self.last_epoch = int(self.run.data.metrics.get("epoch", 0))
            self.is_running = self.run.info.status == "RUNNING"
        else:
            tags = {RUN_ID: run.run_id, GROUP: run.group, COMMIT: run.config.get("git_revision") or ""}
            self.run = self.client.create_run(experiment, run_name=run.name, tags=tags)
            self.last_epoch, self.is_running = 0, True
            self._describe(run.config)
        uri, self.run_id = self.client.tracking_uri, self.run.info.run_id
        in_page = f"/#/experiments/{experiment}/runs/{self.run_id}"
        self.address = uri.rstrip("/") + in_page if uri.startswith("http") else f"{uri}, run {self.run_id}"

    def _describe(self, config: dict[str, Any]) -> None:
        """Store the settings as parameters of the run, which MLflow never changes."""
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in flat(config)]
        for start in range(0, len(params), MAX_PARAMS):
            self.client.log_batch(self.run.info.run_id, params=params[start : start + MAX_PARAMS])

    @staticmethod
    def defaults(folder: Path) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",  # MLflow's own default, wherever a worker runs
            "MLFLOW_EXPERIMENT_NAME": "flowvae",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # training waits meanwhile
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
            "MLFLOW_LOGGING_LEVEL": "WARNING",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    @staticmethod
    def check() -> None:
        """MLflow needs no account."""

    @staticmethod
    def is_local(environment: Mapping[str, str]) -> bool:
        return not environment.get("MLFLOW_TRACKING_URI")

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        if not self.is_running:
            self.client.update_run(self.run_id, "RUNNING")
            self.is_running = True
        self._log(values, epoch)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def add(self, values: Mapping[str, Value]) -> None:
        from mlflow.entities import RunTag

        self._log({name: value for name, value in values.items() if not isinstance(value, str)}, step=0)
        tags = [RunTag(name, value) for name, value in values.items() if isinstance(value, str)]
        self.client.log_batch(self.run_id, tags=tags)

    def close(self, *, failed: bool) -> None:
        if self.is_running:
            self.client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


def experiment_id(client: Any, run: TrackedRun) -> str:
    """The experiment of a run, which is created if there is none."""
    from mlflow.exceptions import MlflowException

    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    name = os.environ["MLFLOW_EXPERIMENT_NAME"] + (f"-{run.group}" if run.is_trial else "")
    try:
        found = client.get_experiment_by_name(name)
        return found.experiment_id if found else client.create_experiment(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another run created it just now
            raise
    return client.get_experiment_by_name(name).experiment_id


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and values of a nested mapping."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
