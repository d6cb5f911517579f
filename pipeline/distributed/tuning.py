"""Sweeps on Ray Tune: as many trials at a time as the machine or cluster has room for."""

import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import SearchAlgorithm, Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.sample import Domain

from flowvae.data.arrays import Metadata
from flowvae.errors import InputError
from flowvae.training import NonFiniteLossError
from flowvae.training_state import EpochRecord
from pipeline.distributed.arrays import local_arrays, share_arrays
from pipeline.distributed.cluster import connect
from pipeline.distributed.storage import Storage, StorageError, StoredCheckpoints
from pipeline.params import Params
from pipeline.placement import Placement
from pipeline.points import Point, families_depths_seeds, grid, resolve
from pipeline.sweeps import Budget, Range
from pipeline.trials import Trial, row, run_trial, trial_at

METRIC = "valid_negative_elbo"
SHOWN = ("negative_elbo_nats", "nll_nats")  # beside it in the live table


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
    storage = Storage.of(placement.storage, "sweep")
    find = functools.partial(point_at, sweep.params, points)
    name = functools.partial(trial_name, find)
    resources = {"cpu": placement.cpus_per_worker} | ({"gpu": 1} if placement.use_gpu else {})
    try:
        results = tune.Tuner(
            tune.with_resources(functools.partial(work, sweep=sweep, find=find), resources),
            param_space=param_space(sweep.params, points),
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="min",
                num_samples=1 if points else budget.search.num_trials,
                search_alg=search_algorithm(budget),
                scheduler=scheduler(sweep.params, find),
                reuse_actors=True,  # a new one would import torch again
                trial_name_creator=name,
                trial_dirname_creator=name,
            ),
            run_config=tune.RunConfig(
                name=storage.new_start(),
                storage_path=storage.folder,
                storage_filesystem=storage.filesystem,
                failure_config=tune.FailureConfig(max_failures=placement.max_failures),
                verbose=1,
            ),
        ).fit()
        rows = [row_of(sweep, find(result.config), result) for result in results]
    finally:
        ray.shutdown()
    storage.remove()
    return rows


def work(config: dict[str, Any], *, sweep: Sweep, find: Callable[[Mapping[str, Any]], Point]) -> None:
    """What a worker does for one trial: reports each epoch, then the row."""
    torch.set_num_threads(sweep.placement.cpus_per_worker)
    device = torch.device("cuda" if sweep.placement.use_gpu else "cpu")
    trial = sweep.trial(find(config))
    result = sweep.result(trial)  # of a search that proposed the same again
    if result is None:
        checkpoints = StoredCheckpoints(Storage.of(sweep.placement.storage, trial.trial_id), sweep.placement.interval)
        try:
            prepared = local_arrays(sweep.prepared, sweep.metadata, sweep.placement)
            result = run_trial(trial, prepared, device, checkpoints, on_epoch=report_epoch)
        except NonFiniteLossError as error:  # as it would be each time
            result = row(trial, "failed", str(error))
        except StorageError:
            raise  # Tune tries again
        except InputError as error:  # the next run may find it mended
            tune.report({METRIC: math.inf, "reason": str(error)})
            return
        sweep.keep(trial, result)
        checkpoints.remove()
    tune.report({METRIC: result.get(METRIC, math.inf)} | {name: result[name] for name in SHOWN if name in result})


def report_epoch(record: EpochRecord) -> None:
    tune.report({METRIC: record.valid_negative_elbo, "epoch": record.epoch})


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
        "epochs": result.metrics["epoch"],
    }
    sweep.keep(trial, stopped)
    return stopped


def param_space(params: Params, points: list[Point] | None) -> dict[str, Any]:
    """A list of points is tried one by one; else a search draws from families x depths x seeds and all values."""
    if points:
        return {"at": tune.grid_search(list(range(len(points))))}
    return {"base": tune.choice(list(range(len(families_depths_seeds(params)))))} | {
        path: domain(values) for path, values in params.sweep.chosen.over.items()
    }


def domain(values: Range | tuple[Any, ...]) -> Domain:
    if isinstance(values, Range):
        return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)
    return tune.choice([plain(value) for value in values])


def plain(value: Any) -> Any:
    """A value as Optuna can handle it: lists and mappings as text."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def point_at(params: Params, points: list[Point] | None, config: Mapping[str, Any]) -> Point:
    """Where a configuration of Tune's stands."""
    if points:
        return points[config["at"]]
    values = {}
    for path, choices in params.sweep.chosen.over.items():
        known = {} if isinstance(choices, Range) else {plain(choice): choice for choice in choices}
        values[path] = known.get(config[path], config[path])
    return Point(*families_depths_seeds(params)[config["base"]], values)


def trial_name(find: Callable[[Mapping[str, Any]], Point], trial: TuneTrial) -> str:
    point = find(trial.config)
    return f"{point.family}-{point.num_transforms}-{point.seed}-{trial.trial_id}"


def search_algorithm(budget: Budget) -> Searcher | SearchAlgorithm | None:
    match budget.search.name:
        case "random":
            return BasicVariantGenerator(random_state=budget.search.seed)
        case "optuna":
            from ray.tune.search.optuna import OptunaSearch

            return OptunaSearch(metric=METRIC, mode="min", seed=budget.search.seed)
    return None


def scheduler(params: Params, find: Callable[[Mapping[str, Any]], Point]) -> TrialScheduler | None:
    """ASHA per family, if it is asked for: over all at once it would stop the slower family early."""
    budget = params.sweep.chosen
    if not budget.early_stopping:
        return None
    most = resolve(params, Point(*families_depths_seeds(params)[0], {}))["training"].epochs

    def asha() -> AsyncHyperBandScheduler:
        return AsyncHyperBandScheduler(
            time_attr="epoch",
            metric=METRIC,
            mode="min",
            max_t=most + 1,  # ASHA ends what reaches it, before it could be scored
            grace_period=budget.early_stopping.grace_epochs,
            reduction_factor=budget.early_stopping.reduction_factor,
        )

    return PerFamily(asha, lambda trial: find(trial.config).family)


class PerFamily(FIFOScheduler):
    """A scheduler of its own for the trials of each family.

    Args:
        make: a new scheduler.
        family_of: of a trial.
    """

    def __init__(self, make: Callable[[], TrialScheduler], family_of: Callable[[TuneTrial], str]) -> None:
        super().__init__()
        self.family_of, self.schedulers = family_of, defaultdict(make)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # each was made with its own

    def on_trial_add(self, controller: TuneController, trial: TuneTrial) -> None:
        self._of(trial).on_trial_add(controller, trial)

    def on_trial_result(self, controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        return self._of(trial).on_trial_result(controller, trial, result)

    def on_trial_complete(self, controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> None:
        self._of(trial).on_trial_complete(controller, trial, result)

    def on_trial_remove(self, controller: TuneController, trial: TuneTrial) -> None:
        self._of(trial).on_trial_remove(controller, trial)

    def _of(self, trial: TuneTrial) -> TrialScheduler:
        return self.schedulers[self.family_of(trial)]
