"""Progress of a training run: a bar in a terminal, lines elsewhere and in a log file, curves in trackers.

To a process that watches the run, ticks as well.
"""

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from flowvae.training.loop import NonFiniteLossError
from flowvae.training.state import EpochRecord
from pipeline.files import write_json
from pipeline.running.ticks import SECONDS_BETWEEN_TICKS, Tick, is_watched, print_tick
from pipeline.running.trackers import Trackers

SECONDS_BETWEEN_LINES = 10


class Stopwatch:
    """Measures the throughput of a run without progress output.

    Args:
        images_per_step: the size of a batch.
    """

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step, self.steps = images_per_step, 0
        self.first = self.last = time.monotonic()

    def on_step(self, step: int, num_steps: int) -> None:
        self.last = time.monotonic()
        if not self.steps:
            self.first = self.last
        self.steps += 1

    @property
    def images_per_second(self) -> float:
        """Throughput from the end of the first step to the end of the last, including validation; 0 before that."""
        return (self.steps - 1) * self.images_per_step / (self.last - self.first) if self.steps > 1 else 0.0


class TrainingProgress:
    """Reports the progress of a run; its `on_` methods are callbacks of `fit`.

    Args:
        name: of the run; each line starts with it.
        logs: folder for NAME.log, which gets every line, NAME.non_finite.json and tensorboard/NAME.
        num_images: images per epoch.
        num_epochs: epochs of the run.
    """

    def __init__(self, name: str, logs: Path, num_images: int, num_epochs: int) -> None:
        self.name, self.logs, self.num_images, self.num_epochs = name, logs, num_images, num_epochs
        logs.mkdir(parents=True, exist_ok=True)
        self.log = (logs / f"{name}.log").open("a", encoding="utf-8", buffering=1)
        self.events = SummaryWriter(str(logs / "tensorboard" / name))
        self.trackers = Trackers.of_process(warn)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, disable=not sys.stderr.isatty(), transient=True)
        self.task = self.bar.add_task(name, total=None, speed="")
        self.started = self.last_line = self.last_tick = time.monotonic()
        self.tick = Tick(0, 0, "step")
        self.first_step: int | None = None  # 1, unless the run was resumed
        self.images_per_second = self.seconds_left = 0.0

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        for address in self.trackers.addresses:
            self.show(f"{self.name}  {address}")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()
        self.events.close()
        self.trackers.close(failed=error is not None)
        self.log.close()

    def on_step(self, step: int, num_steps: int) -> None:
        if self.first_step is None:
            self.first_step = step
            if step > 1:
                self.line(f"resumed after step {step - 1}/{num_steps}")
        done, elapsed = step + 1 - self.first_step, time.monotonic() - self.started
        self.images_per_second = done / num_steps * self.num_images * self.num_epochs / elapsed
        self.seconds_left = elapsed * (num_steps - step) / done
        if not self.bar.disable:
            self.bar.update(self.task, completed=step, total=num_steps, speed=f"{self.images_per_second:,.0f} images/s")
        self.tick = replace(self.tick, done=step, total=num_steps, images_per_second=self.images_per_second)
        if is_watched() and time.monotonic() - self.last_tick > SECONDS_BETWEEN_TICKS:
            self.last_tick = time.monotonic()
            print_tick(self.tick)
        if time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.line(f"step {step}/{num_steps}")

    def on_epoch(self, record: EpochRecord) -> None:
        values = asdict(record) | {"images_per_second": self.images_per_second}
        for name, value in values.items():
            self.events.add_scalar(name, value, record.epoch)
        self.events.flush()
        self.trackers.log(values, record.epoch)
        self.tick = replace(self.tick, negative_elbo=record.valid_negative_elbo)
        if is_watched():
            print_tick(self.tick)
        self.line(
            f"epoch {record.epoch}/{self.num_epochs}  -ELBO train {record.train_negative_elbo:.2f}, "
            f"valid {record.valid_negative_elbo:.2f} = rec {record.valid_reconstruction:.2f} + KL {record.valid_kl:.2f}"
        )

    def on_halving(self, error: NonFiniteLossError) -> None:
        path = write_diagnostics(self.logs, self.name, error)
        self.line(f"{error}; norms per layer are in {path}; restarting the epoch with half the learning rate")

    def line(self, text: str) -> None:
        """Print a line with the throughput and the remaining time, and append it to the log file."""
        self.last_line = time.monotonic()
        self.show(f"{self.name}  {text}  {self.images_per_second:,.0f} images/s, {self.seconds_left:.0f} s left")

    def show(self, text: str) -> None:
        """Print a line, and append it to the log file."""
        print(text, file=self.log)
        if self.bar.disable:
            print(text, flush=True)
        else:
            self.bar.console.print(text, highlight=False, soft_wrap=True)


def warn(line: str) -> None:
    """Print a warning of the stage `train`."""
    print(f"train: {line}", file=sys.stderr, flush=True)


def write_diagnostics(logs: Path, name: str, error: NonFiniteLossError) -> Path:
    """Write the diagnostics of a failed run to LOGS/NAME.non_finite.json.

    Returns:
        Its path.
    """
    path = logs / f"{name}.non_finite.json"
    write_json(path, error.dump)
    return path
