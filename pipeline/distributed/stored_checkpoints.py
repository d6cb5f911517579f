"""Checkpoints of a run in a single process, in storage that nodes and clones share. Nothing here needs Ray."""

from collections.abc import Callable

from flowvae.training.checkpoint import NUM_KEPT, Checkpoint, Clock, Interval
from pipeline.distributed.storage import Storage
from pipeline.running.placement import Placement


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


def stored_checkpoints(placement: Placement, name: str) -> StoredCheckpoints:
    """Checkpoints in the placement's storage.

    Args:
        placement: has the storage and the interval.
        name: of the run or trial, which identifies everything that it depends on.

    Raises:
        InputError: FLOWVAE_STORAGE is invalid.
    """
    return StoredCheckpoints(Storage.of(placement.storage, name), placement.interval)
