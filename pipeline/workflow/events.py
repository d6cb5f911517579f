"""What happens in a run of the workflow, for the process that shows it: one JSON object per line in a pipe.

A run that nobody watches, as one of a deployment, has no such pipe; Prefect's server shows it.
"""

import json
import os
import threading
from contextlib import suppress
from typing import Any

LOCK = threading.Lock()  # stages run in threads
pipes: list[int] = []  # to those who watch: one, or none


def connect(pipe: int) -> None:
    """Write events into this file descriptor from now on."""
    pipes.append(pipe)


def has_watchers() -> bool:
    """Whether somebody watches this run, so that it is worth while to find out what to tell."""
    return bool(pipes)


def emit(kind: str, **content: Any) -> None:
    """Tell what has happened.

    Args:
        kind: of the event; `Board` in pipeline.workflow.watching has a method for each, with the content as arguments.
        content: what there is to say of it, as JSON can hold it.
    """
    line = json.dumps({"kind": kind, **content}, default=str).encode() + b"\n"
    with LOCK, suppress(BrokenPipeError):  # whoever watched has ended, and so will this process
        for pipe in pipes:
            rest = line
            while rest:
                rest = rest[os.write(pipe, rest) :]
