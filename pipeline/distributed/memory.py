"""Trials that need more memory than a node has."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray.air.execution._internal import RayActorManager
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller


class ActorManager(RayActorManager):
    """Ray Tune's actor manager, except that an actor that was killed by Ray's memory monitor counts as died.

    Tune 2.60 handles actors that die and tasks that raise. The monitor's OutOfMemoryError is neither, so it would end
    the whole study. With this class, only the trial fails; it is retried, and recorded with the reason.

    To be reported at https://github.com/ray-project/ray/issues: "Tune: a trial that the memory monitor kills ends the
    whole run"; https://github.com/ray-project/ray/issues/41575 seems to be a case of it. This class can go with the
    first version of Ray whose `RayActorManager._actor_task_failed` handles an OutOfMemoryError; 2.60 does not.
    """

    def _actor_task_failed(self, tracked_actor_task: TrackedActorTask, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=short_message(str(exception)))
        super()._actor_task_failed(tracked_actor_task, exception)


def short_message(message: str) -> str:
    """The essence of Ray's long message about a killed worker, without addresses and process ids."""
    match = re.search(r"[\d.]+GB used / [\d.]+GB limit", message)
    return f"the node ran out of memory ({match[0]})" if match else "the node ran out of memory"


@contextmanager
def isolate_memory_failures() -> Iterator[None]:
    """Let a trial of Ray Tune that runs out of memory fail without the other trials.

    Tune creates its actor manager itself and accepts no other. So inside the block, the class is replaced in Tune's
    module.
    """
    original = tune_controller.RayActorManager
    tune_controller.RayActorManager = ActorManager
    try:
        yield
    finally:
        tune_controller.RayActorManager = original
