"""Whether what was committed still comes out: metrics of two runs, compared by their standard errors."""

import math
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowvae.errors import InputError
from pipeline.exhibits import Metrics

VALUE, ERROR = "_nats", "_stderr"  # endings of a metric's name, and of its standard error's


@contextmanager
def fresh_clone() -> Iterator[None]:
    """Work in a new folder with the last commit alone: DVC's cache is empty there, and nothing is up to date.

    Raises:
        InputError: the working folder is in no git repository, or nothing is committed.
    """
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="drift-") as folder:
        clone = Path(folder) / before.name
        command = ["git", "clone", "--quiet", str(before), str(clone)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            why = " ".join(ran.stderr.split())
            raise InputError(f"{before}: cannot be cloned ({why}); a drift check needs a git commit")
        os.chdir(clone)
        try:
            yield
        finally:
            os.chdir(before)


def compare(committed: Metrics, measured: Metrics, num_standard_errors: float) -> list[dict[str, Any]]:
    """A row per metric that has a standard error: both values, their difference, what is allowed, the verdict.

    Two runs with the same seed see the same test images, so they differ by less than the allowed
    sqrt(stderr^2 + stderr^2) times `num_standard_errors` unless something is not as it was.
    """
    rows = []
    for path, before in committed.items():
        for name in (name for name in before if name.endswith(VALUE) and error_of(name) in before):
            after = measured.get(path, {})
            difference = after.get(name, math.nan) - before[name]
            allowed = num_standard_errors * math.hypot(before[error_of(name)], after.get(error_of(name), math.nan))
            rows.append(
                {
                    "metrics": path,
                    "name": name,
                    "committed": before[name],
                    "measured": after.get(name),
                    "difference": round(difference, 4),
                    "allowed": round(allowed, 4),
                    "drifted": not abs(difference) <= allowed,  # a NaN has drifted too
                }
            )
    return rows


def error_of(name: str) -> str:
    return name.removesuffix(VALUE) + ERROR


def describe(row: dict[str, Any]) -> str:
    """One line about a metric that has drifted."""
    return (
        f"{row['metrics']}: {row['name']}: {row['committed']} is committed, {row['measured']} came out "
        f"(differs by {row['difference']}, allowed {row['allowed']})"
    )
