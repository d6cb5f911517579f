"""What a study tries and which trials it stops early, in the terms of Ray Tune."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import SearchAlgorithm, Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.sample import Domain

from pipeline.distributed.training import EPOCH, METRIC
from pipeline.params.schema import Range, StudyConfig
from pipeline.study.points import Point, Study

POINT, BASE = "point", "base"  # keys of Tune's configurations: positions in a list of points, or of bases


def param_space(study: Study, points: Sequence[Point] | None) -> dict[str, Any]:
    """Tune's search space: a list of points as a grid; without one, any base with any of the values to vary."""
    if points:
        return {POINT: tune.grid_search(list(range(len(points))))}
    bases = tune.choice(list(range(len(study.bases()))))
    return {BASE: bases} | {path: domain(values) for path, values in study.config.over.items()}


def domain(values: Range | tuple[Any, ...]) -> Domain:
    """The domain of one value."""
    if isinstance(values, Range):
        return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)
    return tune.choice([plain(value) for value in values])


def plain(value: Any) -> Any:
    """A value as Optuna supports it: lists and mappings become text."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def point_at(study: Study, points: Sequence[Point] | None, config: Mapping[str, Any]) -> Point:
    """The point of one of Tune's configurations."""
    if points:
        return points[config[POINT]]
    values = {}
    for path, choices in study.config.over.items():
        originals = {} if isinstance(choices, Range) else {plain(choice): choice for choice in choices}
        values[path] = originals.get(config[path], config[path])
    family, num_transforms, seed = study.bases()[config[BASE]]
    return Point(family, num_transforms, seed, values)


def trial_name(find: Callable[[Mapping[str, Any]], Point], trial: TuneTrial) -> str:
    """Name of a trial in Tune's table and folders."""
    point = find(trial.config)
    return f"{point.family}-{point.num_transforms}-{point.seed}-{trial.trial_id}"


def search_algorithm(config: StudyConfig) -> Searcher | SearchAlgorithm | None:
    """Tune's search; None for a grid."""
    search = config.search
    match search.name:
        case "random":
            return BasicVariantGenerator(random_state=search.seed)
        case "optuna":
            from ray.tune.search.optuna import OptunaSearch

            return OptunaSearch(metric=METRIC, mode="min", seed=search.seed)
    return None


def num_samples(config: StudyConfig) -> int:
    """How often Tune samples the search space; a grid once."""
    return 1 if config.search.name == "grid" else config.search.num_trials


def scheduler(study: Study, find: Callable[[Mapping[str, Any]], Point]) -> TrialScheduler | None:
    """ASHA per family if the study asks for it: over all families it would stop the slower ones early."""
    early_stopping = study.config.early_stopping
    if early_stopping.name == "none":
        return None
    family, num_transforms, seed = study.bases()[0]
    max_epochs = study.sections(Point(family, num_transforms, seed, {})).training.epochs

    def asha() -> AsyncHyperBandScheduler:
        return AsyncHyperBandScheduler(
            time_attr=EPOCH,
            metric=METRIC,
            mode="min",
            max_t=max_epochs + 1,  # ASHA ends a trial that reaches this before it can be scored
            grace_period=early_stopping.grace_epochs,
            reduction_factor=early_stopping.reduction_factor,
        )

    return PerFamily(asha, lambda trial: find(trial.config).family)


class PerFamily(FIFOScheduler):
    """One scheduler for the trials of each family.

    Args:
        make: returns a new scheduler.
        family_of: trial -> family.
    """

    def __init__(self, make: Callable[[], TrialScheduler], family_of: Callable[[TuneTrial], str]) -> None:
        super().__init__()
        self.family_of = family_of
        self.schedulers: defaultdict[str, TrialScheduler] = defaultdict(make)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # each scheduler was created with its own

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
