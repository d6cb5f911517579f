"""DVC's commands as child processes, several at once, whose output is heard line by line."""

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

LOCK = Path(".dvc/tmp/workflow.lock")
LEASH = Path(__file__).with_name("leash.py")
BUSY = ("Unable to acquire lock", "is busy, it is being blocked by")  # what DVC says while another is at work
TIMES_BUSY, SECONDS_BUSY = 20, 3.0
HINTS = (
    "To track the changes with git",
    "git add ",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
)
LAST_LINES = 50  # in which the reason of a failure is looked for


class Children:
    """Commands of DVC's in the working folder, until all are ended.

    Args:
        threads: for the computations of each.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.running: set[subprocess.Popen[str]] = set()
        self.ended = threading.Event()

    def run(self, arguments: Sequence[str], hear: Callable[[str], None]) -> None:
        """Run `dvc ARGUMENTS` and hear each line; again a little later while another process of DVC's is in the way.

        Raises:
            InputError: it failed, and why, in one line.
        """
        for attempt in range(1, TIMES_BUSY + 1):
            code, lines = self._run_once(arguments, hear)
            if self.ended.is_set():
                raise InputError(f"dvc {' '.join(arguments)} was ended; run it again to go on")
            if code == 0:
                return
            busy = any(sign in line for line in lines for sign in BUSY)
            if not busy or attempt == TIMES_BUSY:
                raise InputError(f"dvc {' '.join(arguments)} ended with code {code}: {reason(lines)}")
            wait = random.uniform(0.2, 1) * SECONDS_BUSY
            hear(f"another process of DVC's is in the way; again in {wait:.1f} s")
            time.sleep(wait)

    def end(self) -> None:
        """End all that runs, and let nothing start any more."""
        self.ended.set()
        for process in list(self.running):
            process.stdin.close()  # the leash

    def _run_once(self, arguments: Sequence[str], hear: Callable[[str], None]) -> tuple[int, list[str]]:
        command = [sys.executable, str(LEASH), sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
        with subprocess.Popen(
            command,
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # no signal that is meant for this process
        ) as process:
            self.running.add(process)
            if self.ended.is_set():
                process.stdin.close()
            lines = deque(maxlen=LAST_LINES)
            for line in process.stdout:
                if line.strip() and not line.strip().startswith(HINTS):
                    lines.append(line.rstrip())
                    hear(line.rstrip())
            self.running.discard(process)
        return process.returncode, list(lines)

    def _environment(self) -> dict[str, str]:
        """With this Python first, whatever environment was active."""
        found = dict(os.environ)
        if sys.prefix != sys.base_prefix:
            found["VIRTUAL_ENV"] = sys.prefix
        found["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), found.get("PATH", os.defpath)))
        found.setdefault("OMP_NUM_THREADS", str(self.threads))
        return found | {"PYTHONUNBUFFERED": "1"}


@contextmanager
def children(width: int, concurrency: int | None) -> Iterator[tuple[Children, int]]:
    """For commands of DVC's that end with this block, and how many stages run at a time.

    The threads of a stage follow from that number and not from the targets: the same stage gives the same bytes,
    whatever else runs.

    Args:
        width: how many stages of dvc.yaml could run at a time.
        concurrency: how many are to; if None, as many as there are cores, or one where there is a GPU.
    """
    cores, gpu = os.cpu_count() or 1, Path("/dev/nvidia0").exists() and os.environ.get("FLOWVAE_DEVICE") != "cpu"
    limit = concurrency or (1 if gpu else min(cores, width))
    work = Children(threads=max(1, cores // limit))
    try:
        yield work, limit
    finally:
        work.end()


@contextmanager
def alone(say: Callable[[str], None]) -> Iterator[None]:
    """The only workflow in the working folder; another one waits for its end, and says so."""
    lock = FileLock(LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another workflow is at work in {Path.cwd()}; waiting for its end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def reason(lines: Sequence[str]) -> str:
    """The line before those that say that DVC failed; else the last."""
    own = [line for line in lines if not line.startswith("ERROR: ")]
    return (own or [line.removeprefix("ERROR: ") for line in lines] or ["it said nothing"])[-1].strip()
