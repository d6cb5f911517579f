"""Studies on Ray Tune: as many trials at a time as the machine or cluster has room for."""

import functools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.result import TRIAL_ID

from flowvae.data.arrays import Metadata, read_metadata
from flowvae.errors import InputError
from flowvae.model.networks import plain_weights
from flowvae.training.loop import NonFiniteLossError
from flowvae.training.state import EpochRecord
from pipeline import paths
from pipeline.distributed.arrays import local_arrays, share_arrays
from pipeline.distributed.cluster import connect
from pipeline.distributed.driver_code import check_code
from pipeline.distributed.memory import isolate_memory_failures
from pipeline.distributed.remote import compute, worker_device
from pipeline.distributed.searching import (
    num_samples,
    param_space,
    point_at,
    scheduler,
    search_algorithm,
    trial_name,
)
from pipeline.distributed.storage import Storage, StorageError
from pipeline.distributed.stored_checkpoints import stored_checkpoints
from pipeline.distributed.tracked_trials import TrackedTrials
from pipeline.distributed.training import EPOCH, METRIC, fit_group
from pipeline.running.placement import Placement, find_trial_placement
from pipeline.running.trackers import requested_trackers
from pipeline.study.points import Point, Study
from pipeline.study.trials import Trial, row, run_trial, score_trial, trial_at

SHOWN = ("negative_elbo_nats", "nll_nats")  # beside METRIC in the live table
DRIVER_MEMORY = 500 << 20  # bytes, of the process that waits for the workers of a trial
FindPoint = Callable[[Mapping[str, Any]], Point]


@dataclass(frozen=True)
class StudyRun:
    """A study with its data and its placement. Its results are stored in one file per trial, under the trial's hash.

    Args:
        study: what to compare.
        metadata: of the data.
        prepared: folder of the data, the same on all nodes.
        placement: resources of a trial, and the storage.
    """

    study: Study
    metadata: Metadata
    prepared: Path
    placement: Placement

    @classmethod
    def from_environment(cls, study: Study) -> "StudyRun":
        """With the data of this project, placed as the environment says.

        Raises:
            InputError: the data or the environment are invalid.
        """
        placement = find_trial_placement(torch.get_num_threads(), torch.cuda.device_count(), os.environ)
        return cls(study, read_metadata(paths.PREPARED), paths.PREPARED.resolve(), placement)

    @property
    def results(self) -> Storage:
        return Storage.of(self.placement.storage, "trials")

    def trial(self, point: Point) -> Trial:
        return trial_at(self.study, point, self.metadata, self.prepared)

    def stored_row(self, trial: Trial) -> dict[str, Any] | None:
        """The row of a trial that ended in this run or an earlier one, with the columns of its point in this study."""
        content = self.results.read(f"{trial.trial_id}.json")
        return json.loads(content) | trial.point.columns() if content else None

    def store_row(self, trial: Trial, result: dict[str, Any]) -> None:
        self.results.write(f"{trial.trial_id}.json", json.dumps(result, indent=2).encode())


def run_study(run: StudyRun) -> list[dict[str, Any]]:
    """Train and score all trials that have no stored row.

    Returns:
        One row per trial, in the order of the grid or of the search.

    Raises:
        InputError: Ray or the storage is unavailable, or the study was interrupted.
    """
    if run.study.config.search.name != "grid":
        return tuned(run, None)
    trials = [run.trial(point) for point in run.study.grid()]
    stored = {trial.trial_id: run.stored_row(trial) for trial in trials}
    missing = [trial.point for trial in trials if stored[trial.trial_id] is None]
    new = {result["trial"]: result for result in (tuned(run, missing) if missing else [])}
    return [new.get(trial.trial_id) or stored[trial.trial_id] or lost(trial) for trial in trials]


def lost(trial: Trial) -> dict[str, Any]:
    """The row of a trial that Tune returned without."""
    return row(trial, "failed", "Ray Tune ended before this trial")


def tuned(run: StudyRun, points: Sequence[Point] | None) -> list[dict[str, Any]]:
    """Rows of the trials at some points, or at those that the search proposes."""
    study, placement = run.study, run.placement
    if placement.address:
        share_arrays(run.prepared, placement.storage)
    connect(placement)
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # on Ctrl-C it would return as if all trials had ended
    storage = Storage.of(placement.storage, f"study-{study.name}")
    find = functools.partial(point_at, study, points)
    name = functools.partial(trial_name, find)
    trials = Trials(study.name, len(points) if points else num_samples(study.config))
    try:
        tuner = tune.Tuner(
            tune.with_resources(functools.partial(run_as_worker, run=run, find=find), resources_of(placement)),
            param_space=param_space(study, points),
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="min",
                num_samples=num_samples(study.config),
                search_alg=search_algorithm(study.config),
                scheduler=scheduler(study, find),
                max_concurrent_trials=max_groups(placement),
                reuse_actors=True,  # a new one would import torch again
                trial_name_creator=name,
                trial_dirname_creator=name,
            ),
            run_config=tune.RunConfig(
                name=storage.new_start(),
                storage_path=storage.folder,
                storage_filesystem=storage.filesystem,
                failure_config=tune.FailureConfig(max_failures=placement.max_failures),
                callbacks=[trials, *tracked_trials(run, find)],
                verbose=1,
            ),
        )
        with isolate_memory_failures():
            results = tuner.fit()
        if trials.unfinished:
            raise InputError(f"{study.name} was interrupted; run again to resume")
        rows = [row_of(run, find(trials.config_of(result)), result) for result in results]
    finally:
        ray.shutdown()
    storage.remove()
    return rows


class Trials(tune.Callback):
    """Prints the number of trials that have ended, one line each time; Tune's table shows the rest.

    Keeps the configurations: a result of Tune's has none if its trial ended before it reported anything. Keeps which
    trials have not ended: Tune returns, as after a signal, without saying so.

    Args:
        name: of the study.
        total: number of its trials.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total = name, total
        self.ended: set[str] = set()
        self.configs: dict[str, dict[str, Any]] = {}

    @property
    def unfinished(self) -> set[str]:
        """Trials that neither finished, nor failed, nor were stopped by the scheduler."""
        return self.configs.keys() - self.ended

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.ended.add(trial.trial_id)
        print(f"{self.name}  trials {len(self.ended)}/{self.total}", flush=True)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.on_trial_complete(iteration, trials, trial, **info)

    def on_experiment_end(self, trials: list[TuneTrial], **info: Any) -> None:
        self.configs = {trial.trial_id: trial.config for trial in trials}

    def config_of(self, result: tune.Result) -> dict[str, Any]:
        """The configuration of the trial that a result is of."""
        return self.configs[(result.metrics or {})[TRIAL_ID]]


def tracked_trials(run: StudyRun, find: FindPoint) -> list[TrackedTrials]:
    """Shows the trials in trackers; empty unless FLOWVAE_TRACKER asks for some."""
    names = requested_trackers(os.environ)
    return (
        [TrackedTrials(names, run.study.name, lambda config: run.trial(find(config)), run.stored_row)] if names else []
    )


def run_as_worker(config: dict[str, Any], *, run: StudyRun, find: FindPoint) -> None:
    """Run one trial in a worker of Tune's: report each epoch, then the result."""
    trial = run.trial(find(config))
    result = run.stored_row(trial)  # of a search that proposed the same point again
    if result is None:
        checkpoints = stored_checkpoints(run.placement, trial.trial_id)
        try:
            check_code()
            if run.placement.workers:
                result = run_by_group(trial, run, checkpoints.storage)
            else:
                prepared = local_arrays(run.prepared, run.metadata, run.placement)
                result = run_trial(trial, prepared, worker_device(run.placement), checkpoints, on_epoch=report_to_tune)
        except NonFiniteLossError as error:  # it would diverge each time
            result = row(trial, "diverged", str(error))
        except StorageError:
            raise  # Tune retries the trial
        except InputError as error:  # the cause may be fixed before the next run
            tune.report({METRIC: math.inf, "reason": str(error)})
            return
        run.store_row(trial, result)
        checkpoints.remove()
    tune.report({METRIC: result.get(METRIC, math.inf)} | {name: result[name] for name in SHOWN if name in result})


def report_to_tune(record: EpochRecord) -> None:
    """Report an epoch to Tune."""
    tune.report({METRIC: record.valid_negative_elbo, EPOCH: record.epoch})


def run_by_group(trial: Trial, run: StudyRun, storage: Storage) -> dict[str, Any]:
    """Run a trial on several workers, and score it on one; the process that waits for them computes nothing.

    Returns:
        The row of the finished trial.
    """
    spec = replace(trial.spec, prepared=local_arrays(run.prepared, run.metadata, run.placement))
    fitted = fit_group(spec, run.placement, storage, EpochsToTune())
    fitted = replace(fitted, vae=plain_weights(fitted.vae))  # which can be pickled
    return compute(functools.partial(score_trial, trial, fitted), run.prepared, run.metadata, run.placement)


class EpochsToTune(TuneReportCallback):
    """Forwards what workers report about an epoch, but not that they wrote a checkpoint."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if EPOCH in metrics[0]:
            super().after_report(run_context, metrics, None)


def resources_of(placement: Placement) -> dict[str, float]:
    """What Tune reserves for a trial. The workers of a group reserve their own, so the process that waits does not."""
    if placement.workers:
        return {"cpu": 0, "memory": DRIVER_MEMORY}
    resources: dict[str, float] = {"cpu": placement.cpus_per_worker}
    return resources | ({"gpu": 1.0} if placement.use_gpu else {})


def max_groups(placement: Placement) -> int | None:
    """How many groups the cluster has room for; None if Tune knows it, or if the cluster has yet to grow."""
    if not placement.workers:
        return None
    per_group = placement.workers[0] * (1 if placement.use_gpu else placement.cpus_per_worker)
    return int(ray.cluster_resources().get("GPU" if placement.use_gpu else "CPU", 0)) // per_group or None


def row_of(run: StudyRun, point: Point, result: tune.Result) -> dict[str, Any]:
    """The row of a trial that finished, failed or was stopped early."""
    trial = run.trial(point)
    if stored := run.stored_row(trial):
        return stored
    if result.error:
        return row(trial, "failed", str(result.error).strip().splitlines()[-1])
    metrics = result.metrics or {}
    if "reason" in metrics:
        return row(trial, "failed", metrics["reason"])
    stopped = row(trial, "stopped", "by ASHA") | {METRIC: round(metrics[METRIC], 4), "epochs": metrics[EPOCH]}
    run.store_row(trial, stopped)
    return stopped
