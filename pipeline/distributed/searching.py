"""What a sweep tries and what it stops early, in the terms of Ray Tune."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import SearchAlgorithm, Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.sample import Domain

from pipeline.distributed.training import EPOCH, METRIC
from pipeline.params import Params
from pipeline.points import Point, families_depths_seeds, resolve
from pipeline.sweeps import Budget, Range


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
            time_attr=EPOCH,
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
