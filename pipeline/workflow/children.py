"""DVC commands as child processes, several in parallel, whose output is read line by line."""

import os
import random
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from flowvae.errors import InputError
from pipeline.running.machine import available_cpus, has_gpu
from pipeline.running.redaction import redact
from pipeline.running.ticks import WATCHED, Tick, is_tick, read_tick

LOCK = Path(".dvc/tmp/workflow.lock")
LEASH = Path(__file__).with_name("leash.py")
DVC = ("dvc", "--wait-for-lock")
BUSY = ("Unable to acquire lock", "is busy, it is being blocked by")  # DVC's messages while another process works
MAX_ATTEMPTS, RETRY_SECONDS = 20, 3.0  # while DVC is busy
HINTS = (
    "To track the changes with git",
    "git add ",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
)  # of DVC, which are not shown
NUM_LAST_LINES = 50  # that are searched for the reason of a failure


class TimeLimitError(InputError):
    """A command has taken longer than it may."""


class StoppedError(InputError):
    """A command was stopped because the run ends."""


class CommandError(InputError):
    """A command has failed.

    Args:
        command: with its arguments.
        code: its exit code.
        reason: the last line that it has printed of its own.
    """

    def __init__(self, command: str, code: int, reason: str) -> None:
        super().__init__(f"{command} failed with exit code {code}: {reason}")
        self.reason = reason


class Children:
    """DVC commands in the working folder, which can all be stopped together.

    Args:
        threads: number of threads for the computations of each command.
        limit: seconds after which a command is terminated; None for no limit.
    """

    def __init__(self, threads: int, limit: float | None = None) -> None:
        self.threads, self.limit = threads, limit
        self.running: set[subprocess.Popen[str]] = set()
        self.stopped = threading.Event()

    def run(
        self,
        arguments: Sequence[str],
        on_line: Callable[[str], None],
        program: Sequence[str] = DVC,
        on_tick: Callable[[Tick], None] | None = None,
    ) -> None:
        """Run `dvc ARGUMENTS`; run it again a little later while another DVC process holds a lock.

        Args:
            arguments: of DVC.
            on_line: called with each line of the output, without credentials.
            program: a module to run in place of DVC, and its first arguments.
            on_tick: called with each tick of a stage, which is no line; None if nobody watches its progress.

        Raises:
            TimeLimitError: it was terminated after `limit` seconds.
            StoppedError: it was terminated by `stop`.
            CommandError: it failed.
        """
        command = redact(f"{program[0].split('.')[-1]} {' '.join(arguments)}")
        end = None if self.limit is None else time.monotonic() + self.limit
        for attempt in range(1, MAX_ATTEMPTS + 1):
            code, lines = self._run_once([*program, *arguments], on_line, on_tick, end)
            if self.stopped.is_set():
                raise StoppedError(f"{command} was stopped; run it again to resume")
            if code == 0:
                return
            if end is not None and time.monotonic() >= end:
                limit = f"{self.limit:g} s, its limit (stage_timeout)"
                raise TimeLimitError(f"{command} was terminated after {limit}; run it again to resume")
            busy = any(message in line for line in lines for message in BUSY)
            if not busy or attempt == MAX_ATTEMPTS:
                raise CommandError(command, code, reason(lines))
            seconds = random.uniform(0.2, 1) * RETRY_SECONDS
            on_line(f"another DVC process holds a lock; trying again in {seconds:.1f} s")
            time.sleep(seconds)

    def stop(self) -> None:
        """Terminate all running commands, and prevent new ones from starting."""
        self.stopped.set()
        for process in list(self.running):
            release(process)

    def _run_once(
        self,
        arguments: Sequence[str],
        on_line: Callable[[str], None],
        on_tick: Callable[[Tick], None] | None,
        end: float | None,
    ) -> tuple[int, list[str]]:
        """Run `python -m ARGUMENTS` once, until it ends, or at the longest until this monotonic time.

        Returns:
            Its exit code and the last lines of its output.
        """
        command = [sys.executable, str(LEASH), sys.executable, "-m", *arguments]
        lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
        with subprocess.Popen(
            command,
            env=self._environment() | ({WATCHED: "1"} if on_tick else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that signals to this process do not reach it
        ) as process:
            self.running.add(process)
            if self.stopped.is_set():
                release(process)
            with released_at(end, process):
                for line in process.stdout or ():
                    if on_tick and (tick := read_tick(line)):
                        on_tick(tick)
                    if line.strip() and not is_tick(line) and not line.strip().startswith(HINTS):
                        lines.append(redact(line.rstrip()))
                        on_line(lines[-1])
            self.running.discard(process)
        return process.returncode, list(lines)

    def _environment(self) -> dict[str, str]:
        """The environment of a command, in which this Python comes first, whatever environment is active."""
        environment = dict(os.environ)
        if sys.prefix != sys.base_prefix:
            environment["VIRTUAL_ENV"] = sys.prefix
        environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", os.defpath)))
        environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        return environment | {"PYTHONUNBUFFERED": "1"}


def release(process: subprocess.Popen[str]) -> None:
    """Close the standard input of a process on a leash, which terminates it."""
    if process.stdin:
        process.stdin.close()


@contextmanager
def released_at(end: float | None, process: subprocess.Popen[str]) -> Iterator[None]:
    """Release the process at this monotonic time, unless the block ends before."""
    if end is None:
        yield
        return
    timer = threading.Timer(end - time.monotonic(), release, [process])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def child_processes(
    width: int, concurrency: int | None, stage_timeout: float | None = None
) -> Iterator[tuple[Children, int]]:
    """Run DVC commands that are stopped at the end of the block, and decide how many stages run in parallel.

    The number of threads of a stage depends on this number, but not on the targets. So a stage gives the same bytes,
    whatever else runs.

    Args:
        width: number of stages of dvc.yaml that could run in parallel.
        concurrency: requested number of stages at a time; None means the number of cores, or 1 where there is a GPU.
        stage_timeout: seconds after which a command is terminated; None for no limit.

    Yields:
        The commands, and the number of stages at a time.
    """
    cores = available_cpus()
    limit = concurrency or (1 if has_gpu() else min(cores, width))
    children = Children(max(1, cores // limit), stage_timeout)
    try:
        yield children, limit
    finally:
        children.stop()


@contextmanager
def exclusive(log: Callable[[str], None]) -> Iterator[None]:
    """Let only one workflow run in the working folder; another one logs that it waits, and waits."""
    lock = FileLock(LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log(f"another workflow is running in {Path.cwd()}; waiting until it ends")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def reason(lines: Sequence[str]) -> str:
    """The reason of a failure: the last line that is not DVC's own report of it, else DVC's last line."""
    stage_lines = [line for line in lines if not line.startswith("ERROR: ")]
    return (stage_lines or [line.removeprefix("ERROR: ") for line in lines] or ["it printed nothing"])[-1].strip()
