"""The interface of a tracker, and the description of a run that it receives."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

Value = float | int | str


@dataclass(frozen=True)
class TrackedRun:
    """A training run, as plain data that can be sent to other processes.

    Args:
        trackers: keys of TRACKERS.
        run_id: what the run depends on; a run that is resumed, or evaluated, has the same.
        name: that people see.
        group: the variant, or the study of a trial.
        is_trial: whether it belongs to a study.
        config: settings and circumstances, nested.
    """

    trackers: tuple[str, ...]
    run_id: str
    name: str
    group: str
    is_trial: bool
    config: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "TrackedRun":
        content = json.loads(text)
        return cls(**content | {"trackers": tuple(content["trackers"])})


class Tracker(ABC):
    """One run in one tracker. Creating it continues the run if the tracker has one with this id.

    Attributes:
        place: the variables that say where runs go.
        last_epoch: of the learning curve that the tracker has; None if it cannot tell.
        address: where the run can be looked at.
    """

    place: ClassVar[str]
    last_epoch: int | None
    address: str

    @abstractmethod
    def __init__(self, run: TrackedRun) -> None: ...

    @staticmethod
    @abstractmethod
    def defaults(folder: Path) -> dict[str, str]:
        """Variables of the client that hold unless the user sets others.

        Args:
            folder: for what stays on this machine.
        """

    @staticmethod
    @abstractmethod
    def check() -> None:
        """Raise InputError if the client's settings are such that it could not be used; it is not contacted."""

    @staticmethod
    @abstractmethod
    def is_local(environment: Mapping[str, str]) -> bool:
        """Whether runs would stay in the folder that a process was started in."""

    @abstractmethod
    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Add a point to the curves of the run."""

    @abstractmethod
    def add(self, values: Mapping[str, Value]) -> None:
        """Add values that belong to the run as a whole; they replace earlier ones."""

    @abstractmethod
    def close(self, *, failed: bool) -> None:
        """Say that the run has ended, and wait until everything has arrived."""
