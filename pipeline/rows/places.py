"""What a row has on this machine: its lock, checkpoints, weights and progress."""

import hashlib
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from flowvae.training.checkpoint import CheckpointFolder
from pipeline import paths
from pipeline.rows.plan import Row
from pipeline.running.placement import find_placement

PROGRESS = "progress.json"


def state_folder(row: Row) -> Path:
    """Where the lock, the progress and the weights of a row are."""
    return paths.ROW_STATE / row.preset / row.name


def lock_of(row: Row, timeout: float) -> FileLock:
    """The lock that a process holds while it works on a row; acquiring it fails if another one does for so long."""
    folder = state_folder(row)
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "lock", timeout=timeout)


def is_locked(row: Row) -> bool:
    """Whether a process works on a row."""
    if not (state_folder(row) / "lock").exists():
        return False
    with suppress(Timeout), lock_of(row, 0):
        return False
    return True


def checkpoints_of(row: Row, data: Mapping[str, str]) -> CheckpointFolder:
    """Checkpoints of a row, which no row with other settings, data or code shares."""
    depends_on = [
        row.vae.model_dump_json(),
        row.training.model_dump_json(),
        row.point.seed,
        sorted(data.items()),
        row.code,
    ]
    digest = hashlib.sha256(repr(depends_on).encode()).hexdigest()[:16]
    interval = find_placement(None, 1, 0, os.environ).interval
    return CheckpointFolder(state_folder(row) / digest, interval, on_damage=lambda line: print(line, file=sys.stderr))
