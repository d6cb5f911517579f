"""The trials of a study as runs in trackers."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from pipeline.distributed.training import EPOCH, METRIC
from pipeline.running.trackers import Trackers
from pipeline.running.trackers.tracker import TrackedRun, Value
from pipeline.scores import metric_names
from pipeline.study.trials import Trial
from pipeline.tracking import config_of, scores_of


class TrackedTrials(tune.Callback):
    """Shows the trials of a study in trackers, from the process that waits for them.

    Args:
        names: of the trackers.
        study: its name.
        find: the trial with one of Tune's configurations.
        stored_row: the row of a trial that has finished or diverged.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        study: str,
        find: Callable[[Mapping[str, Any]], Trial],
        stored_row: Callable[[Trial], dict[str, Any] | None],
    ) -> None:
        self.names, self.study, self.find, self.stored_row = names, study, find, stored_row
        self.open: dict[str, Trackers] = {}

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        if trial.trial_id not in self.open:  # else Tune started it again after a failure
            found = self.find(trial.config)
            config = {"study": self.study, **found.point.columns(), **config_of(found.spec)}
            run = TrackedRun(self.names, found.trial_id, found.spec.name, self.study, True, config)
            self.open[trial.trial_id] = Trackers(run, warn)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if EPOCH in result:
            self.open[trial.trial_id].log({name: result[name] for name in (EPOCH, METRIC)}, result[EPOCH])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        row = self.stored_row(self.find(trial.config)) or {}
        scores = scores_of(row, metric_names()) if row.get("status") == "finished" else {}
        self._close(trial, scores, failed=row.get("status") == "diverged" or "reason" in trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._close(trial, {}, failed=True)

    def _close(self, trial: TuneTrial, scores: dict[str, Value], *, failed: bool) -> None:
        if trackers := self.open.pop(trial.trial_id, None):  # else Tune could not start it
            trackers.add(scores)
            trackers.close(failed=failed)


def warn(line: str) -> None:
    """Print a warning of the stage `study`."""
    print(f"study: {line}", file=sys.stderr, flush=True)
