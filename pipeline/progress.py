"""Progress of a training run: a bar in a terminal, lines elsewhere and in a log file."""

import sys
import time
from pathlib import Path
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flowvae.training import EpochRecord

SECONDS_BETWEEN_LINES = 10


class TrainingProgress:
    """Receives the callbacks of `fit`.

    Args:
        name: of the run, at the start of each line.
        log: file that gets every line; begun anew.
        num_images: images per epoch.
        num_epochs: epochs of the run.
    """

    def __init__(self, name: str, log: Path, num_images: int, num_epochs: int) -> None:
        self.name, self.num_images, self.num_epochs = name, num_images, num_epochs
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log.open("w", encoding="utf-8", buffering=1)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, disable=not sys.stderr.isatty(), transient=True)
        self.task = self.bar.add_task(name, total=None, speed="")
        self.started = self.last_line = time.monotonic()
        self.images_per_second = 0.0

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()
        self.log.close()

    def on_step(self, step: int, num_steps: int) -> None:
        elapsed = time.monotonic() - self.started
        self.images_per_second = step / num_steps * self.num_images * self.num_epochs / elapsed
        self.left = elapsed * (num_steps - step) / step
        if not self.bar.disable:
            self.bar.update(self.task, completed=step, total=num_steps, speed=f"{self.images_per_second:,.0f} images/s")
        if time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.line(f"step {step}/{num_steps}")

    def on_epoch(self, record: EpochRecord) -> None:
        self.line(
            f"epoch {record.epoch}/{self.num_epochs}  -ELBO train {record.train_negative_elbo:.2f}, "
            f"valid {record.valid_negative_elbo:.2f} = rec {record.valid_reconstruction:.2f} + KL {record.valid_kl:.2f}"
        )

    def line(self, text: str) -> None:
        self.last_line = time.monotonic()
        text = f"{self.name}  {text}  {self.images_per_second:,.0f} images/s, {self.left:.0f} s left"
        print(text, file=self.log)
        if self.bar.disable:
            print(text, flush=True)
        else:
            self.bar.console.print(text, highlight=False, soft_wrap=True)
