"""The events of a run, read from a pipe while it runs."""

import json
import os
import select
from collections.abc import Iterator
from types import TracebackType
from typing import Any

Event = dict[str, Any]
MAX_BYTES = 1 << 16  # that are read at once


class EventPipe:
    """A pipe into which a child process writes events, one JSON object per line; `end` is the descriptor for that."""

    def __init__(self) -> None:
        self.source, self.end = os.pipe()
        self.rest = b""

    def __enter__(self) -> "EventPipe":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self.source)
        os.close(self.end)

    def read(self, seconds: float) -> list[Event]:
        """The events that have been written; waits at the longest this many seconds for the first."""
        events = list(self._available(seconds))
        while more := list(self._available(0)):
            events += more
        return events

    def _available(self, seconds: float) -> Iterator[Event]:
        if select.select([self.source], [], [], seconds)[0]:
            *lines, self.rest = (self.rest + os.read(self.source, MAX_BYTES)).split(b"\n")
            yield from map(json.loads, lines)
