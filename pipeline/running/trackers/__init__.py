"""Where a training run can be watched beside TensorBoard: FLOWVAE_TRACKER is mlflow, wandb, or mlflow,wandb.

The variables of each client decide the rest, such as MLFLOW_TRACKING_URI and WANDB_MODE. What can be known to be wrong
without the network is an error before anything starts. After that, a tracker is never a reason for a run to fail: if it
cannot be used, that is one line, and training continues without it.
"""

import importlib.util
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flowvae.errors import InputError
from pipeline.running.redaction import holds_secret, redact
from pipeline.running.trackers.mlflow import MLflow
from pipeline.running.trackers.tracker import TrackedRun, Tracker, Value
from pipeline.running.trackers.wandb import WandB

TRACKERS: dict[str, type[Tracker]] = {"mlflow": MLflow, "wandb": WandB}
SETTING = "FLOWVAE_TRACKER"
RUN = "FLOWVAE_TRACKED_RUN"  # variable of a process that trains: its TrackedRun
CLIENT_VARIABLES = ("MLFLOW_", "WANDB_")
MAX_REASON = 200  # characters


def requested_trackers(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The trackers that FLOWVAE_TRACKER names.

    Raises:
        InputError: it names others.
    """
    names = tuple(dict.fromkeys(filter(None, map(str.strip, environment.get(SETTING, "").split(",")))))
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"{SETTING}: expected {' or '.join(TRACKERS)}, or several with commas, got {name!r}")
    return names


def prepare_clients(names: Iterable[str], folder: Path) -> None:
    """Set the variables of the clients that the user has not set, for this process and those that it starts.

    Args:
        names: keys of TRACKERS.
        folder: for what stays on this machine.

    Raises:
        InputError: a client is not installed, or could not be used with its settings.
    """
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder that the client has left is no package
            raise InputError(f"{SETTING}: {name} is not installed; make .venv/installed-{name} installs it")
        for variable, value in TRACKERS[name].defaults(folder).items():
            os.environ.setdefault(variable, value)
        TRACKERS[name].check()


def check_submitted(environment: Mapping[str, str]) -> None:
    """Check what a job on a cluster would be told.

    Raises:
        InputError: a tracker is unknown, or would leave its runs in the job's folder, which is deleted.
    """
    for name in requested_trackers(environment):
        if TRACKERS[name].is_local(environment):
            raise InputError(
                f"{SETTING}: {name} would leave its runs in the folder of the job, which is deleted when the job ends; "
                f"set {TRACKERS[name].place}"
            )


def sent_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that processes on other machines need, without credentials: those belong to the machines."""
    return {
        name: value
        for name, value in environment.items()
        if name in (SETTING, RUN) or (name.startswith(CLIENT_VARIABLES) and not holds_secret(name, value))
    }


class Trackers:
    """One run in several trackers. The first failure of a tracker is a line, and the run continues without it.

    Args:
        run: to create or to continue; None for none.
        warn: shows a line.
    """

    def __init__(self, run: TrackedRun | None, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self.open: dict[str, Tracker] = {}
        if run is None:
            return
        for name in run.trackers:
            with self._survive(name):
                self.open[name] = TRACKERS[name](run)

    @classmethod
    def of_process(cls, warn: Callable[[str], None]) -> "Trackers":
        """Those of the run that this process trains; none unless FLOWVAE_TRACKER asked for some.

        A tracker that cannot be reached now is not tried again at the end.
        """
        described = os.environ.get(RUN)
        if not described:
            return cls(None, warn)
        run = TrackedRun.from_json(described)
        trackers = cls(run, warn)
        os.environ[RUN] = replace(run, trackers=tuple(trackers.open)).to_json()
        return trackers

    @property
    def addresses(self) -> list[str]:
        """Where the run can be looked at, without credentials."""
        return [f"{name}: {redact(tracker.address)}" for name, tracker in self.open.items()]

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Add a point to the curves, unless they already have it: a run resumes from before its last epoch."""
        for name, tracker in list(self.open.items()):
            if epoch > (tracker.last_epoch or 0):
                with self._survive(name):
                    tracker.log(values, epoch)

    def complete(self, curve: Iterable[Mapping[str, float]]) -> None:
        """Add the epochs that are missing because a tracker could not be reached when they ended."""
        for name, tracker in list(self.open.items()):
            last = tracker.last_epoch
            with self._survive(name):
                for values in curve:
                    if last is not None and values["epoch"] > last:
                        tracker.log(values, int(values["epoch"]))

    def add(self, values: Mapping[str, Value]) -> None:
        """Add values that belong to the run as a whole."""
        for name, tracker in list(self.open.items()):
            with self._survive(name):
                tracker.add(values)

    def close(self, *, failed: bool = False) -> None:
        """Say that the run has ended."""
        for name, tracker in list(self.open.items()):
            with self._survive(name):
                tracker.close(failed=failed)
        self.open.clear()

    @contextmanager
    def _survive(self, name: str) -> Iterator[None]:
        """Turn any error into a line, because a result matters more than where it is watched."""
        try:
            yield
        except Exception as error:  # of a client, of its transport, of its database: each has its own
            self.open.pop(name, None)
            self.warn(f"{SETTING}: {name} cannot be used ({reason_of(error)}); this run continues without it")


def reason_of(error: BaseException) -> str:
    """Why a client failed, in one line: clients wrap the cause in sentences and requests."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    text = redact(" ".join(str(error).split())) or type(error).__name__
    return textwrap.shorten(text, MAX_REASON, placeholder=" ...")
