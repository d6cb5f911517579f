"""Checkpoints: the state of a run, from which it resumes and produces the same bits as an uninterrupted run.

A checkpoint is one safetensors file whose name contains its checksum. The file is complete or absent. Nothing in it
can execute code. A damaged or truncated file is detected, reported and skipped.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from flowvae.errors import InputError
from flowvae.files import write_atomically

NUM_KEPT = 2  # the last checkpoint, and the one before it in case the last is damaged
CHECKPOINT_NAME = re.compile(r"(?P<step>\d{9})-(?P<digest>[0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two steps.

    Args:
        step: number of finished steps.
        tensors: weights, moments and sums, by name.
        scalars: the rest of the state, as JSON values.
    """

    step: int
    tensors: dict[str, Tensor]
    scalars: dict[str, Any]

    def clone(self) -> "Checkpoint":
        """A copy that later steps do not change."""
        return Checkpoint(self.step, {name: tensor.clone() for name, tensor in self.tensors.items()}, self.scalars)

    def to_bytes(self) -> bytes:
        """Content of a checkpoint file."""
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        return save_tensors(tensors, {"scalars": json.dumps({"step": self.step} | self.scalars)})

    def file_name(self, content: bytes) -> str:
        """Name of a file with this content: the step and the checksum."""
        return f"{self.step:09d}-{hashlib.sha256(content).hexdigest()}.safetensors"

    @classmethod
    def from_bytes(cls, content: bytes) -> "Checkpoint":
        """The inverse of `to_bytes`, for content whose checksum was verified."""
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        scalars = json.loads(header["__metadata__"]["scalars"])
        return cls(scalars.pop("step"), load_tensors(content), scalars)

    @classmethod
    def from_file(cls, name: str, content: bytes) -> "Checkpoint | None":
        """The checkpoint in a file; None if the content does not match the checksum in the name."""
        match = CHECKPOINT_NAME.fullmatch(name)
        if match is None or hashlib.sha256(content).hexdigest() != match["digest"]:
            return None
        return cls.from_bytes(content)


class Checkpoints(Protocol):
    """Storage of the checkpoints of one run."""

    def latest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint; None if there is none."""

    def offer(self, step: int, capture: Callable[[], Checkpoint]) -> None:
        """Store a checkpoint if one is due; called before each step.

        Args:
            step: number of finished steps.
            capture: returns the checkpoint to store. If it is called on one worker, it is called on all.
        """


class NoCheckpoints:
    """For runs that are too short to be worth resuming."""

    def latest(self) -> None:
        return None

    def offer(self, step: int, capture: Callable[[], Checkpoint]) -> None:
        return None


@dataclass(frozen=True)
class Interval:
    """The time between two checkpoints.

    Args:
        amount: number of steps or seconds, above 0.
        unit: steps or seconds.
    """

    amount: float
    unit: Literal["steps", "seconds"]

    @classmethod
    def parse(cls, text: str) -> "Interval":
        """Read '500 steps', '60 s' or '60s'.

        Raises:
            InputError: the text has another form.
        """
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(steps|s)\s*", text)
        if not match or not float(match[1]):
            raise InputError(f"expected an interval like '500 steps' or '60 s', got {text!r}")
        return cls(float(match[1]), "steps" if match[2] == "steps" else "seconds")


class Clock:
    """Decides when the next checkpoint is due.

    Args:
        interval: between two checkpoints.
    """

    def __init__(self, interval: Interval) -> None:
        self.interval, self.step, self.time = interval, 0, time.monotonic()

    def due(self, step: int) -> bool:
        """Whether the interval has passed since the last `reset`."""
        if self.interval.unit == "steps":
            return step - self.step >= self.interval.amount
        return time.monotonic() - self.time >= self.interval.amount

    def reset(self, step: int) -> None:
        """Start the interval again."""
        self.step, self.time = step, time.monotonic()


class CheckpointFolder:
    """Checkpoints of one run, in a folder that holds nothing else.

    Args:
        folder: its name identifies everything that the run depends on, so that no other run uses its files.
        interval: between two checkpoints.
        on_damage: called with one line for each damaged file, which is then removed.
    """

    def __init__(self, folder: Path, interval: Interval, on_damage: Callable[[str], None]) -> None:
        self.folder, self.clock, self.on_damage = folder, Clock(interval), on_damage

    def latest(self) -> Checkpoint | None:
        for path in reversed(self._files()):
            if checkpoint := Checkpoint.from_file(path.name, path.read_bytes()):
                self.clock.reset(checkpoint.step)
                return checkpoint
            self.on_damage(
                f"{path}: damaged, its checksum is not the one in its name; "
                "the file is removed, and the run resumes from an earlier state"
            )
            path.unlink()
        return None

    def offer(self, step: int, capture: Callable[[], Checkpoint]) -> None:
        if self.clock.due(step):
            write_checkpoint(self.folder, capture())
            for old in self._files()[:-NUM_KEPT]:
                old.unlink()
            self.clock.reset(step)

    def remove(self) -> None:
        """Delete all checkpoints, once the results of the run are on disk."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _files(self) -> list[Path]:
        """From the oldest to the newest."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if CHECKPOINT_NAME.fullmatch(path.name))


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a file whose name contains the step and the checksum of its content.

    Returns:
        Its path.

    Raises:
        OSError: the disk is full or the folder is not writable; earlier checkpoints remain.
    """
    content = checkpoint.to_bytes()
    path = folder / checkpoint.file_name(content)
    write_atomically(path, content)
    return path
