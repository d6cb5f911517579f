"""Checkpoints in storage that all nodes see: of a run by one process, and of a group of Ray Train's workers."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed

from flowvae.training.checkpoint import NUM_KEPT, Checkpoint, Clock, Interval, write_checkpoint
from pipeline.distributed.storage import Storage, StorageError

STEPS_BETWEEN_CLOCK_READS = 10  # because all workers must agree on the time


class StoredCheckpoints:
    """Checkpoints of a run in a single process, in storage that all nodes can access.

    Args:
        storage: of the run.
        interval: between two checkpoints.
    """

    def __init__(self, storage: Storage, interval: Interval) -> None:
        self.storage, self.clock = storage, Clock(interval)

    def latest(self) -> Checkpoint | None:
        _, checkpoint = self.storage.newest()
        if checkpoint:
            self.clock.reset(checkpoint.step)
        return checkpoint

    def offer(self, step: int, capture: Callable[[], Checkpoint]) -> None:
        if self.clock.due(step):
            checkpoint = capture()
            content = checkpoint.to_bytes()
            self.storage.write(checkpoint.file_name(content), content)
            for old in self.storage.checkpoints()[NUM_KEPT:]:
                self.storage.delete(old)
            self.clock.reset(step)

    def remove(self) -> None:
        """Delete all checkpoints, once the results of the run are stored."""
        if self.storage.checkpoints():
            self.storage.remove()


class RayCheckpoints:
    """Checkpoints that rank zero reports to Ray, which writes them to storage.

    Args:
        interval: between two.
        storage: of the run.
    """

    def __init__(self, interval: Interval, storage: Storage) -> None:
        self.clock, self.last_read, self.storage = Clock(interval), 0, storage
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
        """Whether the interval has passed; the same answer on all workers."""
        if self.clock.interval.unit == "steps":
            return self.clock.due(step)
        if step - self.last_read < STEPS_BETWEEN_CLOCK_READS:
            return False
        self.last_read = step
        if self.context.get_world_size() == 1:
            return self.clock.due(step)
        answer = torch.tensor(self.clock.due(step), dtype=torch.uint8, device=ray.train.torch.get_device())
        torch.distributed.broadcast(answer, 0)
        return bool(answer)
