"""Checkpoints: the state of a run, from which it goes on to the very bits of an undisturbed one.

A checkpoint is one safetensors file whose name carries its checksum, complete or absent. Nothing in
it can run code, and one that was damaged or cut short is found out, reported and passed over.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from flowvae.errors import InputError
from flowvae.files import write_atomically

KEPT = 2  # the last one, and the one before it in case of damage
NAME = re.compile(r"(?P<step>\d{9})-(?P<digest>[0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps.

    Args:
        step: steps done.
        tensors: weights, moments and sums, by name.
        progress: all else, as JSON has it.
    """

    step: int
    tensors: dict[str, Tensor]
    progress: dict[str, Any]

    def clone(self) -> "Checkpoint":
        """A copy that later steps do not change."""
        return Checkpoint(self.step, {name: tensor.clone() for name, tensor in self.tensors.items()}, self.progress)

    def to_bytes(self) -> bytes:
        """The contents of a file."""
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        return save_tensors(tensors, {"progress": json.dumps({"step": self.step} | self.progress)})

    def file_name(self, content: bytes) -> str:
        """The name of a file with these contents: the step and their checksum."""
        return f"{self.step:09d}-{hashlib.sha256(content).hexdigest()}.safetensors"

    @classmethod
    def from_bytes(cls, content: bytes) -> "Checkpoint":
        """The inverse of `to_bytes`, for contents whose checksum was right."""
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        progress = json.loads(header["__metadata__"]["progress"])
        return cls(progress.pop("step"), load_tensors(content), progress)

    @classmethod
    def from_file(cls, name: str, content: bytes) -> "Checkpoint | None":
        """The checkpoint in a file; None if its contents are not those that its name vouches for."""
        if hashlib.sha256(content).hexdigest() != NAME.fullmatch(name)["digest"]:
            return None
        return cls.from_bytes(content)


class Checkpoints(Protocol):
    """Where a run keeps its checkpoints."""

    def latest(self) -> Checkpoint | None:
        """The newest sound one; None to begin."""

    def offer(self, step: int, capture: Callable[[], Checkpoint]) -> None:
        """Before each step: keep what `capture` returns, if it is time to; then all workers call it."""


class NoCheckpoints:
    """For runs that are not worth resuming."""

    def latest(self) -> None:
        return None

    def offer(self, step: int, capture: Callable[[], Checkpoint]) -> None:
        return None


@dataclass(frozen=True)
class Interval:
    """How often: every so many steps or seconds.

    Args:
        amount: above 0.
        unit: steps or seconds.
    """

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> "Interval":
        """From '500 steps', '60 s' or '60s'.

        Raises:
            InputError: it is neither.
        """
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(steps|s)\s*", text)
        if not match or not float(match[1]):
            raise InputError(f"expected an interval like '500 steps' or '60 s', got {text!r}")
        return cls(float(match[1]), "steps" if match[2] == "steps" else "seconds")


class Clock:
    """Says when the next checkpoint is due.

    Args:
        interval: between two.
    """

    def __init__(self, interval: Interval) -> None:
        self.interval, self.step, self.time = interval, 0, time.monotonic()

    def due(self, step: int) -> bool:
        """Whether the interval has passed since the last `reset`."""
        if self.interval.unit == "steps":
            return step - self.step >= self.interval.amount
        return time.monotonic() - self.time >= self.interval.amount

    def reset(self, step: int) -> None:
        self.step, self.time = step, time.monotonic()


class CheckpointFolder:
    """Checkpoints of one run, in a folder of their own.

    Args:
        folder: named after all that the run depends on, so that no other run finds its files.
        interval: between two checkpoints.
        on_damage: told in one line of each damaged file, which is removed.
    """

    def __init__(self, folder: Path, interval: Interval, on_damage: Callable[[str], None]) -> None:
        self.folder, self.clock, self.on_damage = folder, Clock(interval), on_damage

    def latest(self) -> Checkpoint | None:
        for path in reversed(self._files()):
            if checkpoint := Checkpoint.from_file(path.name, path.read_bytes()):
                self.clock.reset(checkpoint.step)
                return checkpoint
            self.on_damage(f"{path}: damaged, its checksum is not the one in its name; removed, going back further")
            path.unlink()
        return None

    def offer(self, step: int, capture: Callable[[], Checkpoint]) -> None:
        if self.clock.due(step):
            write_checkpoint(self.folder, capture())
            for old in self._files()[:-KEPT]:
                old.unlink()
            self.clock.reset(step)

    def remove(self) -> None:
        """Forget the run, once what it made is safe."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _files(self) -> list[Path]:
        """From the oldest to the newest."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if NAME.fullmatch(path.name))


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a file whose name says the step and the checksum of its contents.

    Raises:
        OSError: the disk is full or the folder cannot be written; earlier checkpoints stay.
    """
    content = checkpoint.to_bytes()
    path = folder / checkpoint.file_name(content)
    write_atomically(path, content)
    return path
