"""Run a command that ends when its parent does, however the parent ends: python leash.py COMMAND [ARGUMENT ...].

The parent holds the other end of standard input. When that end is closed, the command is terminated. The parent closes
it, or the system does so when the parent exits or is killed.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil

SECONDS_TO_END = 5  # between SIGTERM and SIGKILL


def main() -> int:
    """The exit code of the command."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    released = threading.Event()
    watcher = threading.Thread(target=terminate_when_released, args=(process, released), daemon=True)
    watcher.start()
    code = process.wait()
    if released.is_set():
        watcher.join()  # the command has ended; processes that it started may still run
    return code


def terminate_when_released(process: subprocess.Popen[bytes], released: threading.Event) -> None:
    """Wait until the other end of standard input is closed, then terminate the process."""
    os.read(sys.stdin.fileno(), 1)
    released.set()
    terminate_tree(process)


def terminate_tree(process: subprocess.Popen[bytes]) -> None:
    """Terminate a process and all its descendants, in whatever session they are.

    Only `process` waits for itself: if psutil took its exit code, `process.wait` would return 0.
    """
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        descendants = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGTERM)
        end = time.monotonic() + SECONDS_TO_END
        _, alive = psutil.wait_procs(descendants, SECONDS_TO_END)
        for descendant in alive:
            with suppress(psutil.NoSuchProcess):
                descendant.kill()
        try:
            process.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
