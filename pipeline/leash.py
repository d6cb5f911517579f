"""Run a command that ends when its parent does, however that ends: python leash.py COMMAND [ARGUMENT ...].

The parent holds the other end of standard input, and lets go of it by closing it, by ending, or by being killed.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import psutil

SECONDS_TO_END = 5  # after SIGTERM, before SIGKILL


def main() -> int:
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    let_go = threading.Event()
    watcher = threading.Thread(target=end_when_let_go, args=(process, let_go), daemon=True)
    watcher.start()
    code = process.wait()
    if let_go.is_set():
        watcher.join()  # the command has ended; what it started may not have
    return code


def end_when_let_go(process: subprocess.Popen[bytes], let_go: threading.Event) -> None:
    os.read(sys.stdin.fileno(), 1)
    let_go.set()
    end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """The process with all that it has started, in whatever session."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        family = psutil.Process(process.pid)
        members = [family, *family.children(recursive=True)]
        os.killpg(process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(members, SECONDS_TO_END)
        for member in alive:
            with suppress(psutil.NoSuchProcess):
                member.kill()


if __name__ == "__main__":
    sys.exit(main())
