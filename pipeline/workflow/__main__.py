"""Run the pipeline as a Prefect workflow, one task per stage: python -m pipeline.workflow [TARGET ...].

A TARGET is a stage of dvc.yaml (study@depth, train@vae-0, or train for all its instances); without targets, all stages
run. DVC decides which stages are stale, and runs them. The workflow decides what runs in parallel, what is retried
and what is displayed. If PREFECT_API_URL is set, that server shows the run, too; otherwise a temporary one is used.

A terminal shows one live view, a pipe or file one line per event. The output of each stage is in logs/stages, and that
of Prefect in logs/workflow.log.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.paths import LOGS
from pipeline.workflow.watching.reading import EventPipe

if TYPE_CHECKING:
    from pipeline.workflow.watching.watcher import Watcher

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOG = LOGS / "workflow.log"
SECONDS_BETWEEN_LOOKS = 0.05  # at signals
SECONDS_TO_END = 8  # more than pipeline.workflow.run takes, unless the machine is too busy for it


def main() -> int:
    """Exit code 0; 1 after one line per problem on standard error; 128 + N if signal N has ended the run."""
    received: list[int] = []
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: received.append(number))
    options = parse_options()
    from pipeline.workflow.watching.watcher import Watcher  # takes a moment, in which Ctrl-C shows no traceback

    command = [sys.executable, "-m", "pipeline.workflow.run", json.dumps(vars(options))]
    try:
        LOG.parent.mkdir(parents=True, exist_ok=True)
        with Watcher() as watcher:
            code = run_apart(command, received, LOG, watcher)
    except OSError as error:
        print(
            f"workflow: {error.filename or 'writing'}: {error.strerror}; free space or fix it, and run again",
            file=sys.stderr,
        )
        return 1
    if code != 0 and received:
        print("workflow: interrupted; run again to resume", file=sys.stderr)
        return 128 + received[0]
    watcher.summarize(code, LOG)
    return code


def run_apart(command: Sequence[str], received: Sequence[int], log: Path, watcher: "Watcher") -> int:
    """Run a command that Ctrl-C does not reach, nor the server that it starts, because both are in their own session.

    It ends when the other end of its standard input is closed: after a signal, or because this process has ended.

    Args:
        command: with its arguments; one more is the number of the pipe into which it writes events.
        received: signals that this process has received so far; a list that grows.
        log: the file that gets its output, in place of that of the run before.
        watcher: shows the events.

    Returns:
        Its exit code.
    """
    with EventPipe() as events, log.open("ab") as output:
        output.truncate(0)  # and not "wb": another run may wait here for the end of the first, which continues to write
        process = subprocess.Popen(
            [*command, str(events.end)], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True, pass_fds=[events.end],
        )  # fmt: skip
        with process:
            end = math.inf
            while process.poll() is None and time.monotonic() < end:
                watcher.show(events.read(SECONDS_BETWEEN_LOOKS))
                if received and process.stdin and end == math.inf:
                    watcher.stop()
                    process.stdin.close()
                    end = time.monotonic() + SECONDS_TO_END
            watcher.show(events.read(0))
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # itself on a busy machine, and what it has left behind
    return process.returncode


def parse_options() -> argparse.Namespace:
    """The arguments of `reproduce`."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.workflow", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("-S", "--set-param", action="append", dest="set_params", metavar="KEY=VALUE",
                        help="a value of params.yaml for this run only; can be repeated. The run works in a copy of "
                             "the project, in .dvc/tmp/overrides, and its results stay there")  # fmt: skip
    parser.add_argument("--concurrency", type=int, help="stages at a time; default: the number of cores, or 1 on a GPU")
    parser.add_argument("--retries", type=int, default=0, help="retries of a stage that fails; default: 0")
    parser.add_argument("--retry-delay", type=float, default=30, help="seconds before a retry; default: 30")
    parser.add_argument("--stage-timeout", type=positive, metavar="SECONDS",
                        help="a stage that takes longer is terminated, and fails; default: no limit")  # fmt: skip
    parser.add_argument("--pull", action="store_true", help="pull results of earlier runs from DVC's remote")
    parser.add_argument(
        "--push", action="store_true", help="push the results of each stage to DVC's remote when it ends"
    )
    parser.add_argument("--experiment", metavar="NAME", help="save the results as a DVC experiment of this name")
    return parser.parse_args()


def positive(text: str) -> float:
    """Read a number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    sys.exit(main())
