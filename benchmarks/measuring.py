"""What the benchmarks share: the form of a result, and a stopwatch."""

import time
from collections.abc import Callable
from typing import TypedDict


class Entry(TypedDict):
    """One result, as written to results.json.

    Attributes:
        name: unique among all results.
        value: what was measured.
        unit: of the value.
        conditions: how it was measured.
    """

    name: str
    value: float
    unit: str
    conditions: str


def entry(name: str, value: float, unit: str, conditions: str, *, digits: int | None = None) -> Entry:
    """Build an entry, with the value rounded to this number of decimal places; None rounds to a whole number."""
    return Entry(name=name, value=round(value, digits), unit=unit, conditions=conditions)


def elapsed(call: Callable[[], object]) -> float:
    """Wall time of a call, in seconds."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
