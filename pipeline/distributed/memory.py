"""Trials that take more memory than a node has."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray.air.execution._internal import RayActorManager
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller


class ActorManager(RayActorManager):
    """Ray Tune's, to which an actor that Ray's memory monitor has ended is one that has died.

    Tune 2.60 knows actors that die and tasks that raise. The monitor's OutOfMemoryError is neither, so it would end the
    whole sweep; like this the trial alone fails, is tried again, and is recorded with its reason.
    """

    def _actor_task_failed(self, tracked_actor_task: TrackedActorTask, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=in_short(str(exception)))
        super()._actor_task_failed(tracked_actor_task, exception)


def in_short(message: str) -> str:
    """What Ray's page about the killed worker says, without addresses and numbers of processes."""
    match = re.search(r"[\d.]+GB used / [\d.]+GB limit", message)
    return f"the node ran out of memory ({match[0]})" if match else "the node ran out of memory"


@contextmanager
def failing_alone() -> Iterator[None]:
    """Sweeps of Ray Tune in which a trial that runs out of memory fails alone.

    Tune makes its actor manager itself and takes none from outside, so its name there is exchanged meanwhile.
    """
    theirs = tune_controller.RayActorManager
    tune_controller.RayActorManager = ActorManager
    try:
        yield
    finally:
        tune_controller.RayActorManager = theirs
