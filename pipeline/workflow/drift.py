"""Whether the committed results can still be reproduced: metrics of two runs, compared by their standard errors."""

import math
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowvae.errors import InputError
from pipeline.workflow.artifacts import Metrics

VALUE_SUFFIX, ERROR_SUFFIX = "_nats", "_stderr"  # of the names of a metric and of its standard error


@contextmanager
def fresh_clone() -> Iterator[None]:
    """Work in a new clone of the last commit, whose DVC cache is empty, so that no stage is up to date.

    Raises:
        InputError: the working folder is not in a git repository, or it has no commit.
    """
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="drift-") as folder:
        clone = Path(folder) / before.name
        command = ["git", "clone", "--quiet", str(before), str(clone)]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        if completed.returncode:
            reason = " ".join(completed.stderr.split())
            raise InputError(f"{before}: cannot be cloned ({reason}); a drift check needs a git commit")
        os.chdir(clone)
        try:
            yield
        finally:
            os.chdir(before)


def compare(committed: Metrics, measured: Metrics, num_standard_errors: float) -> list[dict[str, Any]]:
    """One row per metric that has a standard error: both values, their difference, the allowed difference, the verdict.

    Two runs with the same seed are scored on the same test images. So unless something has changed, they differ by less
    than the allowed difference, sqrt(stderr^2 + stderr^2) times `num_standard_errors`.
    """
    rows = []
    for path, before in committed.items():
        for name in (name for name in before if name.endswith(VALUE_SUFFIX) and stderr_name(name) in before):
            after = measured.get(path, {})
            difference = after.get(name, math.nan) - before[name]
            errors = before[stderr_name(name)], after.get(stderr_name(name), math.nan)
            allowed = num_standard_errors * math.hypot(*errors)
            rows.append(
                {
                    "metrics": path,
                    "name": name,
                    "committed": before[name],
                    "measured": after.get(name),
                    "difference": round(difference, 4),
                    "allowed": round(allowed, 4),
                    "drifted": not abs(difference) <= allowed,  # true for NaN
                }
            )
    return rows


def stderr_name(name: str) -> str:
    """The name of the standard error of a metric."""
    return name.removesuffix(VALUE_SUFFIX) + ERROR_SUFFIX


def drift_line(row: dict[str, Any]) -> str:
    """One line about a metric that has drifted."""
    return (
        f"{row['metrics']}: {row['name']}: committed {row['committed']}, measured {row['measured']} "
        f"(differs by {row['difference']}, allowed {row['allowed']})"
    )
