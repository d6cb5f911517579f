"""The state of a run, from its events: what runs, what has ended and how, and what is to come."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from pipeline.running.ticks import Tick
from pipeline.workflow.watching.estimate import seconds_to_end


@dataclass
class Running:
    """A stage that runs.

    Args:
        since: when it started, as a monotonic time.
        log: the file with its output.
        first, last: ticks, with the times at which they came.
    """

    since: float
    log: str
    first: tuple[float, Tick] | None = None
    last: tuple[float, Tick] | None = None

    def seconds_left(self, now: float, usual: float | None) -> float | None:
        """Seconds until it ends, by its ticks, else by the time that it usually takes; None if neither is known."""
        if self.first and self.last:
            (since, first), (until, last) = self.first, self.last
            if last.done > first.done:
                each, others = (until - since) / (last.done - first.done), last.total - last.done
                return max(others * each - (now - until), (others - 1) * each, 0.0)
        return None if usual is None else max(1.0, usual - (now - self.since))

    def fraction(self, now: float, usual: float | None) -> float | None:
        """The finished fraction, by its last tick, else by the time that it usually takes; None if neither is known."""
        if self.last:
            return self.last[1].fraction
        return min(0.99, (now - self.since) / usual) if usual else None


@dataclass(frozen=True)
class Failure:
    """Why a stage failed.

    Args:
        reason: one line.
        log: the file with its output.
        lines: the last ones of that.
    """

    reason: str
    log: str
    lines: list[str]


@dataclass
class Board:
    """What is known of a run so far; `on_` methods take the events of the same name.

    Args:
        clock: the monotonic time.
    """

    clock: Callable[[], float] = time.monotonic
    stages: list[str] = field(default_factory=list)  # in the order in which they would start
    dependencies: Mapping[str, list[str]] = field(default_factory=dict)
    limit: int = 1
    seconds: dict[str, float] = field(default_factory=dict)  # that stages took, in this run or when they last ran
    to_come: dict[str, None] = field(default_factory=dict)  # in order
    running: dict[str, Running] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)  # in this run, and have succeeded
    skipped: set[str] = field(default_factory=set)
    failed: dict[str, Failure] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    problems: list[str] | None = None  # None until the run has ended by itself

    def __post_init__(self) -> None:
        self.since = self.clock()

    def apply(self, event: Mapping[str, Any]) -> None:
        """Note what an event says."""
        content = dict(event)
        getattr(self, f"on_{content.pop('kind')}")(**content)

    def on_planned(
        self,
        stages: list[str],
        dependencies: Mapping[str, list[str]],
        outdated: list[str],
        seconds: Mapping[str, float],
        limit: int,
    ) -> None:
        self.stages, self.dependencies, self.limit = stages, dependencies, limit
        self.seconds, self.to_come = dict(seconds), dict.fromkeys(outdated)

    def on_started(self, stage: str, log: str) -> None:
        self.to_come.pop(stage, None)
        self.failed.pop(stage, None)  # it is tried again
        self.running[stage] = Running(self.clock(), log)

    def on_tick(self, stage: str, **content: Any) -> None:
        running, moment = self.running[stage], (self.clock(), Tick(**content))
        running.first, running.last = running.first or moment, moment

    def on_finished(self, stage: str, seconds: float, has_run: bool, result: str | None, notes: list[str]) -> None:
        self.running.pop(stage)
        if has_run:
            self.ran.add(stage)
            self.seconds[stage] = seconds

    def on_failed(self, stage: str, reason: str, log: str, lines: list[str]) -> None:
        self.running.pop(stage)
        self.failed[stage] = Failure(reason, log, lines)

    def on_skipped(self, stage: str) -> None:
        self.to_come.pop(stage, None)
        self.skipped.add(stage)

    def on_blocked(self, stages: list[str]) -> None:
        self.blocked = stages
        for stage in stages:
            self.to_come.pop(stage, None)

    def on_note(self, text: str) -> None:
        """Views show it; it changes nothing."""

    def on_results(self, pages: list[str]) -> None:
        self.pages = pages

    def on_ended(self, problems: list[str]) -> None:
        self.problems = problems

    @property
    def up_to_date(self) -> int:
        """The number of stages that are up to date by now."""
        changing = {*self.to_come, *self.running, *self.failed, *self.blocked}
        return sum(stage not in changing for stage in self.stages)

    def usual(self, stage: str) -> float | None:
        """Seconds that a stage takes: as before, else as others of its kind; None if none of them has run here."""
        if stage in self.seconds:
            return self.seconds[stage]
        kind = kind_of(stage)
        others = [seconds for other, seconds in self.seconds.items() if kind_of(other) == kind]
        return mean(others) if others else None

    def seconds_left(self) -> tuple[float, list[str]]:
        """An estimate of the seconds until the run ends, and the kinds of stages that it leaves out: not known yet."""
        now = self.clock()
        left = {stage: run.seconds_left(now, self.usual(stage)) for stage, run in self.running.items()}
        needed = {stage: self.usual(stage) for stage in self.to_come}
        unknown = [stage for stage, seconds in (left | needed).items() if seconds is None]
        seconds = seconds_to_end(
            {stage: seconds or 0.0 for stage, seconds in left.items()},
            {stage: seconds or 0.0 for stage, seconds in needed.items()},
            self.dependencies,
            self.limit,
        )
        return seconds, list(dict.fromkeys(map(kind_of, unknown)))


def kind_of(stage: str) -> str:
    """The stage of dvc.yaml that a stage is an instance of."""
    return stage.partition("@")[0]
