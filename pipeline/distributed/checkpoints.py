"""Checkpoints of a group of Ray Train's workers, in storage that all nodes see."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed

from flowvae.training.checkpoint import Checkpoint, Clock, Interval, write_checkpoint
from pipeline.distributed.storage import Storage, StorageError

STEPS_BETWEEN_CLOCK_READS = 10  # because all workers must agree on the time
SECONDS_BETWEEN_QUESTIONS = 5  # whether a node is about to leave, which Ray itself looks up as often


class RayCheckpoints:
    """Checkpoints that rank zero reports to Ray, which writes them to storage.

    One is due when the interval has passed, and when Ray announces that a node of the group leaves (a spot machine is
    reclaimed, say). Training then continues; once the node is gone, Ray restarts the group from there.

    Args:
        interval: between two.
        storage: of the run.
    """

    def __init__(self, interval: Interval, storage: Storage) -> None:
        self.clock, self.last_read, self.storage = Clock(interval), 0, storage
        self.asking, self.notice = Clock(Interval(SECONDS_BETWEEN_QUESTIONS, "seconds")), None
        self.context = ray.train.get_context()

    def latest(self) -> Checkpoint | None:
        is_rank_zero = self.context.get_world_rank() == 0
        newest, checkpoint = self.storage.newest() if is_rank_zero else (None, None)
        path = ray.train.collective.broadcast_from_rank_zero(newest)
        if path is None:
            return None
        checkpoint = checkpoint or self.storage.checkpoint(path)
        if checkpoint is None:
            raise StorageError(f"{path}: was removed or damaged while the workers read it; run again")
        self.clock.reset(checkpoint.step)
        self.last_read = checkpoint.step
        return checkpoint

    def offer(self, step: int, capture: Callable[[], Checkpoint]) -> None:
        if not self._due(step):
            return
        self.clock.reset(step)
        checkpoint = capture()
        if self.context.get_world_rank() != 0:
            ray.train.report({"step": step})
            return
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), checkpoint)
            ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def _due(self, step: int) -> bool:
        """Whether the interval has passed, or Ray has announced that a node leaves; the same answer on all workers."""
        if self.clock.interval.unit == "steps" and self.clock.due(step):
            return True
        if step - self.last_read < STEPS_BETWEEN_CLOCK_READS:
            return False
        self.last_read = step
        is_due, is_time_to_ask = self._as_rank_zero_says(self.clock.due(step), self.asking.due(step))
        return (is_time_to_ask and self._has_news(step)) or is_due

    def _as_rank_zero_says(self, *answers: bool) -> list[bool]:
        """Rank zero's answers, because the clocks of the workers differ."""
        if self.context.get_world_size() == 1:
            return list(answers)
        agreed = torch.tensor(answers, dtype=torch.uint8, device=ray.train.torch.get_device())
        torch.distributed.broadcast(agreed, 0)
        return list(map(bool, agreed.tolist()))

    def _has_news(self, step: int) -> bool:
        """Whether Ray has announced since the last call that a node leaves; all workers call it."""
        self.asking.reset(step)
        before, self.notice = self.notice, ray.train.get_preemption_info()
        return self.notice not in (None, before)
