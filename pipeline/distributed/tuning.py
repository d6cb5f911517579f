"""Sweeps on Ray Tune: as many trials at a time as the machine or cluster has room for."""

import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from flowvae.data.arrays import Metadata, read_metadata
from flowvae.errors import InputError
from flowvae.networks import plain_weights
from flowvae.training import NonFiniteLossError
from flowvae.training_state import EpochRecord
from pipeline import paths
from pipeline.distributed.arrays import local_arrays, share_arrays
from pipeline.distributed.cluster import connect
from pipeline.distributed.memory import failing_alone
from pipeline.distributed.searching import param_space, point_at, scheduler, search_algorithm, trial_name
from pipeline.distributed.storage import Storage, StorageError, StoredCheckpoints
from pipeline.distributed.tasks import compute, device_here
from pipeline.distributed.training import EPOCH, METRIC, fit_group
from pipeline.params import Params
from pipeline.placement import Placement, find_trial_placement
from pipeline.points import Point, grid
from pipeline.trials import Trial, row, run_trial, score_trial, trial_at

SHOWN = ("negative_elbo_nats", "nll_nats")  # beside it in the live table
MEMORY_TO_WAIT = 500 << 20  # bytes, of the process that waits for the workers of a trial


@dataclass(frozen=True)
class Sweep:
    """One sweep, and where its results are kept: a file per trial, under the trial's hash.

    Args:
        params: of the sweep.
        metadata: of the data.
        prepared: their folder, the same on all nodes.
        placement: what a trial gets, and the storage.
    """

    params: Params
    metadata: Metadata
    prepared: Path
    placement: Placement

    @classmethod
    def here(cls, params: Params) -> "Sweep":
        """Of the data of this project, where the environment says.

        Raises:
            InputError: the data or the environment cannot be read.
        """
        placement = find_trial_placement(torch.get_num_threads(), torch.cuda.device_count(), os.environ)
        return cls(params, read_metadata(paths.PREPARED), paths.PREPARED.resolve(), placement)

    @property
    def kept(self) -> Storage:
        return Storage.of(self.placement.storage, "trials")

    def trial(self, point: Point) -> Trial:
        return trial_at(self.params, point, self.metadata, self.prepared)

    def result(self, trial: Trial) -> dict[str, Any] | None:
        """The row of a trial that ended in an earlier run or this one; where it stands may have another name now."""
        content = self.kept.read(f"{trial.trial_id}.json")
        return json.loads(content) | trial.point.columns() if content else None

    def keep(self, trial: Trial, result: dict[str, Any]) -> None:
        self.kept.write(f"{trial.trial_id}.json", json.dumps(result, indent=2).encode())


def run_sweep(sweep: Sweep) -> list[dict[str, Any]]:
    """Train and score what is not known yet; one row per trial, in the order of the grid or of the search.

    Raises:
        InputError: Ray or the storage cannot be reached.
    """
    if sweep.params.sweep.chosen.search.name != "grid":
        return tuned(sweep, None)
    trials = [sweep.trial(point) for point in grid(sweep.params)]
    unknown = [trial for trial in trials if sweep.result(trial) is None]
    found = tuned(sweep, [trial.point for trial in unknown]) if unknown else []
    by_id = {result["trial"]: result for result in found}
    return [by_id.get(trial.trial_id) or sweep.result(trial) for trial in trials]


def tuned(sweep: Sweep, points: list[Point] | None) -> list[dict[str, Any]]:
    """Rows of the trials at these points, or at those that the search proposes."""
    placement, budget = sweep.placement, sweep.params.sweep.chosen
    if placement.address:
        share_arrays(sweep.prepared, placement.storage)
    connect(placement)
    storage = Storage.of(placement.storage, sweep.params.sweep.section)
    find = functools.partial(point_at, sweep.params, points)
    name = functools.partial(trial_name, find)
    try:
        tuner = tune.Tuner(
            tune.with_resources(functools.partial(work, sweep=sweep, find=find), resources_of(placement)),
            param_space=param_space(sweep.params, points),
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="min",
                num_samples=1 if points else budget.search.num_trials,
                search_alg=search_algorithm(budget),
                scheduler=scheduler(sweep.params, find),
                max_concurrent_trials=room_for_groups(placement),
                reuse_actors=True,  # a new one would import torch again
                trial_name_creator=name,
                trial_dirname_creator=name,
            ),
            run_config=tune.RunConfig(
                name=storage.new_start(),
                storage_path=storage.folder,
                storage_filesystem=storage.filesystem,
                failure_config=tune.FailureConfig(max_failures=placement.max_failures),
                callbacks=[Count(sweep.params.sweep.section, len(points) if points else budget.search.num_trials)],
                verbose=1,
            ),
        )
        with failing_alone():
            results = tuner.fit()
        rows = [row_of(sweep, find(result.config), result) for result in results]
    finally:
        ray.shutdown()
    storage.remove()
    return rows


class Count(tune.Callback):
    """Says how many trials have ended, in a line of its own; Tune's table tells the rest.

    Args:
        name: of what runs.
        total: its trials.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.ended = name, total, 0

    def on_trial_complete(self, **info: Any) -> None:
        self.ended += 1
        print(f"{self.name}  trials {self.ended}/{self.total}", flush=True)

    def on_trial_error(self, **info: Any) -> None:
        self.on_trial_complete(**info)


def work(config: dict[str, Any], *, sweep: Sweep, find: Callable[[Mapping[str, Any]], Point]) -> None:
    """What a worker does for one trial: reports each epoch, then the row."""
    trial = sweep.trial(find(config))
    result = sweep.result(trial)  # of a search that proposed the same again
    if result is None:
        checkpoints = StoredCheckpoints(Storage.of(sweep.placement.storage, trial.trial_id), sweep.placement.interval)
        try:
            if sweep.placement.workers:
                result = run_by_group(trial, sweep, checkpoints.storage)
            else:
                prepared = local_arrays(sweep.prepared, sweep.metadata, sweep.placement)
                device = device_here(sweep.placement)
                result = run_trial(trial, prepared, device, checkpoints, on_epoch=report_epoch)
        except NonFiniteLossError as error:  # as it would be each time
            result = row(trial, "diverged", str(error))
        except StorageError:
            raise  # Tune tries again
        except InputError as error:  # the next run may find it mended
            tune.report({METRIC: math.inf, "reason": str(error)})
            return
        sweep.keep(trial, result)
        checkpoints.remove()
    tune.report({METRIC: result.get(METRIC, math.inf)} | {name: result[name] for name in SHOWN if name in result})


def report_epoch(record: EpochRecord) -> None:
    tune.report({METRIC: record.valid_negative_elbo, EPOCH: record.epoch})


def run_by_group(trial: Trial, sweep: Sweep, storage: Storage) -> dict[str, Any]:
    """`run_trial`, trained by several workers and scored by one; the process that waits for them computes nothing."""
    placement = sweep.placement
    task = replace(trial.task, prepared=local_arrays(sweep.prepared, sweep.metadata, placement))
    fitted = fit_group(task, placement, storage, EpochsToTune())
    vae = plain_weights(fitted.vae)  # which can be sent elsewhere
    score = functools.partial(score_trial, trial, vae, fitted.records, fitted.images_per_second)
    return compute(score, sweep.prepared, sweep.metadata, placement)


class EpochsToTune(TuneReportCallback):
    """Hands on what workers report of an epoch, and not that they wrote a checkpoint."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if EPOCH in metrics[0]:
            super().after_report(run_context, metrics, None)


def resources_of(placement: Placement) -> dict[str, int]:
    """What Tune reserves for a trial; the workers of a group reserve their own, so the process that waits does not."""
    if placement.workers:
        return {"cpu": 0, "memory": MEMORY_TO_WAIT}
    return {"cpu": placement.cpus_per_worker} | ({"gpu": 1} if placement.use_gpu else {})


def room_for_groups(placement: Placement) -> int | None:
    """How many groups the cluster has room for; None where Tune knows, or where the cluster has yet to grow."""
    if not placement.workers:
        return None
    each = placement.workers[0] * (1 if placement.use_gpu else placement.cpus_per_worker)
    return int(ray.cluster_resources().get("GPU" if placement.use_gpu else "CPU", 0)) // each or None


def row_of(sweep: Sweep, point: Point, result: tune.Result) -> dict[str, Any]:
    """The row of a trial that finished, failed or was stopped early."""
    trial = sweep.trial(point)
    if kept := sweep.result(trial):
        return kept
    if result.error:
        return row(trial, "failed", str(result.error).strip().splitlines()[-1])
    if "reason" in result.metrics:
        return row(trial, "failed", result.metrics["reason"])
    stopped = row(trial, "stopped", "by ASHA") | {
        METRIC: round(result.metrics[METRIC], 4),
        "epochs": result.metrics[EPOCH],
    }
    sweep.keep(trial, stopped)
    return stopped
