"""One run of a stage: its output goes into a file, and what it tells goes to those who watch."""

import math
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from flowvae.errors import InputError
from pipeline.running.records import output_file, record_failure, record_success
from pipeline.running.ticks import Tick, read_scores
from pipeline.workflow.children import CommandError
from pipeline.workflow.events import emit

NUM_LAST_LINES = 8  # of the output of a stage that failed, that are shown
RUNNING, CACHED, UNCHANGED = "Running stage '", "is cached - skipping run", "didn't change, skipping"  # DVC's words
DVC_LINES = (RUNNING, "> ", "ERROR: ", "Updating lock file")  # DVC's own beginnings of lines


class WatchedRun:
    """What a stage, or another command of DVC's, does while it runs.

    Args:
        name: of the stage.
        on_line: called with each line of its output.
        on_fraction: called with the finished fraction, now and then.
    """

    def __init__(self, name: str, on_line: Callable[[str], None], on_fraction: Callable[[float], None]) -> None:
        self.name, self.log_line, self.on_fraction = name, on_line, on_fraction
        self.started = time.monotonic()
        self.lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
        self.notes: list[str] = []
        self.has_run = False
        self.result: str | None = None
        self.tick: Tick | None = None
        self.best = math.inf  # -ELBO on validation: training keeps the weights of that epoch
        self.path = output_file(name).resolve()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("w", encoding="utf-8", buffering=1)
        emit("started", stage=name, log=self.path)

    def __enter__(self) -> "WatchedRun":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()

    def on_line(self, line: str) -> None:
        """Keep a line, and what it says."""
        self.log_line(line)
        print(line, file=self.file)
        if line.startswith(RUNNING):
            self.has_run = True
        elif CACHED in line:
            self.result = "taken from DVC's cache"
        elif UNCHANGED in line:
            self.result = "is up to date"
        elif not line.startswith(DVC_LINES):
            self.lines.append(line)
        if line.startswith(f"{self.name.partition('@')[0]}: ") or ": warning: " in line:
            self.notes.append(line)
        self.result = read_scores(line) or self.result

    def on_tick(self, tick: Tick) -> None:
        """Tell how far it is. What it prints for people repeats that, without the speed."""
        if self.tick and self.tick.images_per_second and not tick.images_per_second:
            return
        self.tick = tick
        if tick.negative_elbo is not None:
            self.best = min(self.best, tick.negative_elbo)
        self.on_fraction(tick.fraction)
        emit("tick", stage=self.name, **vars(tick))

    def succeed(self) -> None:
        """Record and tell that it has succeeded."""
        seconds = time.monotonic() - self.started
        record_success(self.name, seconds if self.has_run else None)
        result = self.result or self.reached()
        emit("finished", stage=self.name, seconds=seconds, has_run=self.has_run, result=result, notes=self.notes)

    def reached(self) -> str | None:
        """What it has reached by its ticks, in words."""
        if self.best < math.inf:
            return f"-ELBO {self.best:.2f} on validation"
        return f"{self.tick.done} trials" if self.tick and self.tick.unit == "trial" else None

    def fail(self, error: InputError) -> None:
        """Record and tell that it has failed."""
        reason = error.reason if isinstance(error, CommandError) else str(error)
        record_failure(self.name, reason)
        emit("failed", stage=self.name, reason=reason, log=self.path, lines=list(self.lines))
