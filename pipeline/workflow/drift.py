"""Whether the committed results can still be reproduced: metrics of two runs, compared by their standard errors."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowvae.errors import InputError
from pipeline.listing import git, working_in
from pipeline.workflow.artifacts import Metrics
from pipeline.workflow.copies import add_worktree

VALUE_SUFFIX, ERROR_SUFFIX = "_nats", "_stderr"  # of the names of a metric and of its standard error


@contextmanager
def fresh_checkout() -> Iterator[None]:
    """Work in a new worktree of the last commit, whose DVC cache is empty, so that no stage is up to date.

    Raises:
        InputError: the working folder is not in a git repository, or it has no commit.
    """
    project = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="drift-") as parent:
        folder = Path(parent) / project.name
        try:
            add_worktree(project, folder)
        except InputError as error:
            raise InputError(f"{error}; a drift check needs a git commit") from None
        try:
            with working_in(folder):
                yield
        finally:
            git(project, "worktree", "remove", "--force", str(folder))


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
