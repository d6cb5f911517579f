"""Duration and throughput of runs. They are not outputs of any stage, because outputs must be reproducible."""

import platform
import subprocess
from datetime import datetime, timezone

import torch

from pipeline import paths
from pipeline.files import write_json

EPOCH_TIMES = ("epoch", "seconds")  # columns of timings/epochs/*.csv


def record_timing(
    stage: str, name: str, *, seconds: float, images_per_second: float, device: str, placement: str = "this process"
) -> None:
    """Write timings/STAGE/NAME.json.

    Args:
        stage: train or evaluate.
        name: of the run.
        seconds: duration of the computation, without start-up.
        images_per_second: throughput.
        device: description.
        placement: description of the processes that shared the work.
    """
    content = {
        "seconds": round(seconds, 2),
        "images_per_second": round(images_per_second, 1),
        "device": device,
        "placement": placement,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git_revision": git_revision(),
    }
    write_json(paths.TIMINGS / stage / f"{name}.json", content)


def git_revision() -> str | None:
    """The current commit, followed by '-dirty' if files differ from it; None outside a git repository."""
    try:
        completed = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # no git on this machine
        return None
    return completed.stdout.strip() or None
