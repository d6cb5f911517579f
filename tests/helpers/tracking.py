"""What the clients of trackers have stored, read back."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient

BLOCK, HEADER = 32768, 7  # bytes; W&B writes the log format of LevelDB behind a header of its own
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


class StoredRun(NamedTuple):
    """A run as a tracker has it."""

    run_id: str
    name: str
    group: str
    config: dict[str, Any]
    curve: dict[int, float]  # validation -ELBO by epoch
    values: dict[str, Any]  # that belong to the run as a whole
    failed: bool


def mlflow_runs(project: Path, experiment: str = "flowvae") -> list[StoredRun]:
    """The runs of an experiment in the local store of a project, oldest first."""
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], order_by=["attributes.start_time"]) if found else []
    return [mlflow_run(client, run) for run in runs]


def mlflow_run(client: MlflowClient, run: Any) -> StoredRun:
    tags, points = run.data.tags, client.get_metric_history(run.info.run_id, "valid_negative_elbo")
    assert len({point.step for point in points}) == len(points), "an epoch was logged twice"
    return StoredRun(
        run_id=tags["flowvae.run_id"],
        name=run.info.run_name,
        group=tags["flowvae.group"],
        config=run.data.params,
        curve={point.step: point.value for point in points},
        values=run.data.metrics | tags,
        failed={"FINISHED": False, "FAILED": True}[run.info.status],
    )


def wandb_runs(project: Path) -> list[StoredRun]:
    """What each process that used W&B offline has left for `wandb sync`, oldest first."""
    files = sorted((project / "wandb").glob("offline-run-*/run-*.wandb"))
    return [wandb_run(path) for path in files if path.stat().st_size > HEADER]  # else it was killed


def wandb_run(path: Path) -> StoredRun:
    from wandb.proto import wandb_internal_pb2

    config, curve, values, failed = {}, {}, {}, False
    for content in log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(content)
        if record.HasField("run"):
            run = record.run
        for update in (*record.run.config.update, *record.config.update):
            config[update.key] = json.loads(update.value_json)
        row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if "valid_negative_elbo" in row:
            assert row["epoch"] not in curve, "an epoch was logged twice"
            curve[row["epoch"]] = row["valid_negative_elbo"]
        for update in record.summary.update:
            values[update.key or ".".join(update.nested_key)] = json.loads(update.value_json)
        if record.HasField("exit"):
            failed = record.exit.exit_code != 0
    return StoredRun(run.run_id, run.display_name, run.run_group, config, curve, values, failed)


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of a log, each of which may span several chunks and blocks."""
    position, record = HEADER, b""
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:  # padding
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        position += HEADER
        record = (record if kind in (MIDDLE, LAST) else b"") + content[position : position + length]
        position += length
        if kind in (FULL, LAST):
            yield record
