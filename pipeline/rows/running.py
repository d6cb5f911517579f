"""Train rows in processes of their own, a few at a time."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flowvae.errors import InputError
from pipeline import paths
from pipeline.rows.places import is_locked, state_folder
from pipeline.rows.plan import Row
from pipeline.rows.records import Record, read_record
from pipeline.rows.work import ELSEWHERE, INTERRUPTED
from pipeline.running.machine import available_cpus

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_END = 10


@dataclass
class Worker:
    """A process that works on one row."""

    row: Row
    process: "subprocess.Popen[bytes]"
    errors: Path
    started: float = field(default_factory=time.monotonic)

    def release(self) -> None:
        """Close its standard input, which ends it if it still runs."""
        if self.process.stdin:
            self.process.stdin.close()

    def message(self) -> str:
        """The last line on standard error."""
        lines = self.errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else f"ended with exit code {self.process.returncode}"


def run_rows(preset: str, rows: Sequence[Row], parallel: int, hours: float | None, finish: bool = False) -> None:
    """Train rows in order, or score them again.

    Args:
        preset: as it was given on the command line.
        rows: that have no record, or that are to be scored again.
        parallel: processes at a time.
        hours: after which no row is started; None for no limit.
        finish: whether to score them again.

    Raises:
        InputError: rows failed; one line for each. The others were trained nevertheless.
        KeyboardInterrupt: Ctrl-C; the processes have ended, and their rows resume from their checkpoints.
    """
    end = None if hours is None else time.monotonic() + hours * 3600
    todo, failed, done = list(rows), list[str](), 0
    with ending() as workers:
        while todo or workers:
            while todo and len(workers) < parallel and (end is None or time.monotonic() < end):
                row = todo.pop(0)
                if not is_locked(row):
                    workers.append(start(preset, row, parallel, finish))
            if not workers:
                break
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for worker in [each for each in workers if each.process.poll() is not None]:
                workers.remove(worker)
                worker.release()
                done += 1
                if worker.process.returncode not in (0, ELSEWHERE):
                    failed.append(f"{worker.row.name}: {worker.message()}")
                print(line_of(worker, done, len(rows)), flush=True)
    if todo:
        print(f"study: {hours:g} hours are over; {len(todo)} rows are left for the next time", flush=True)
    if failed:
        raise InputError("\n".join(failed))


@contextmanager
def ending() -> Iterator[list[Worker]]:
    """A list of workers that end when it is left, however it is left."""
    workers: list[Worker] = []
    try:
        yield workers
    finally:
        for worker in workers:
            worker.release()
        for worker in workers:
            try:
                worker.process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                worker.process.kill()


def start(preset: str, row: Row, parallel: int, finish: bool) -> Worker:
    """Start the process of a row. It gets no Ctrl-C of the terminal, and ends when this process does."""
    log = paths.LOGS / "rows" / row.preset / f"{row.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": str(max(1, available_cpus() // parallel))}
    command = [sys.executable, "-m", "pipeline.rows.work", preset, row.name, *["--finish"] * finish]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=threads | os.environ,
            start_new_session=True,
        )
    resumed = any(state_folder(row).glob("*/*.safetensors"))
    print(f"study: {row.name}: {'scoring' if finish else 'resumed' if resumed else 'started'}", flush=True)
    return Worker(row, process, log)


def line_of(worker: Worker, done: int, total: int) -> str:
    """What came of a row."""
    minutes = (time.monotonic() - worker.started) / 60
    if worker.process.returncode == INTERRUPTED:
        result = "interrupted"
    elif worker.process.returncode == ELSEWHERE:
        result = "left to another process"
    elif worker.process.returncode:
        result = f"failed: {worker.message()}"
    else:
        record = read_record(worker.row)
        result = text_of(record) if record else "its record is gone"
    return f"study: {worker.row.name}: {result} ({minutes:.0f} min; {done} of {total})"


def text_of(record: Record) -> str:
    """The scores of a record, or why there are none."""
    if record.status != "finished":
        return f"{record.status}: {record.reason}"
    scores = record.scores
    values = (f"{name} {scores[f'{key}_nats']:.2f} ± {scores[f'{key}_stderr']:.2f}" for name, key in SHOWN.items())
    return ", ".join(values)


SHOWN = {"−ELBO": "negative_elbo", "NLL": "nll"}
