"""What is kept of the last run of each stage, on this machine: its output, why it failed, and how long it took."""

import re
from collections.abc import Iterable
from pathlib import Path

from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import read_json, write_json, write_text

OUTPUTS = paths.LOGS / "stages"
DURATIONS = paths.TIMINGS / "stages"


def file_name(stage: str) -> str:
    """A stage's name, in which nothing separates folders."""
    return re.sub(r"[^\w@.-]+", "-", stage)


def output_file(stage: str) -> Path:
    """The file with the output of a stage."""
    return OUTPUTS / f"{file_name(stage)}.log"


def failure_file(stage: str) -> Path:
    """The file with the reason for which a stage failed, if it did."""
    return OUTPUTS / f"{file_name(stage)}.failed"


def record_failure(stage: str, reason: str) -> None:
    """Keep why a stage failed, until it succeeds."""
    write_text(failure_file(stage), f"{reason}\n")


def record_success(stage: str, seconds: float | None) -> None:
    """Forget that a stage failed, and keep how long it took; None if it did not have to run."""
    failure_file(stage).unlink(missing_ok=True)
    if seconds is not None:
        write_json(DURATIONS / f"{file_name(stage)}.json", {"seconds": round(seconds, 1)})


def failure_of(stage: str, outputs: Iterable[Path]) -> str | None:
    """Why the last run of a stage failed; None if it succeeded, also if it was DVC alone that ran it since.

    Args:
        stage: its name.
        outputs: of the stage. A failure comes after what was written until then.
    """
    path, written = failure_file(stage), list(outputs)
    if not path.is_file():
        return None
    since = path.stat().st_mtime
    if written and all(out.exists() and out.stat().st_mtime > since for out in written):
        return None
    return path.read_text(encoding="utf-8").strip()


def durations(stages: Iterable[str]) -> dict[str, float]:
    """How many seconds each stage took when it last ran here, if it ever did.

    Of one that only DVC has run, what `record_timing` has written: the computation, without the start.
    """
    found = {}
    for stage in stages:
        kind, _, name = stage.partition("@")
        places = DURATIONS / f"{file_name(stage)}.json", paths.TIMINGS / kind / f"{name}.json"
        if seconds := next(filter(None, map(duration, places)), None):
            found[stage] = seconds
    return found


def duration(path: Path) -> float | None:
    """The seconds in a file; None if there is none, or if it is damaged, because they are only used for estimates."""
    try:
        return float(read_json(path)["seconds"])
    except (InputError, KeyError, TypeError, ValueError):
        return None
