"""How long a run took, where. Kept apart from outputs, which are the same on every run."""

import platform
import subprocess
from datetime import datetime, timezone

import torch

from pipeline import paths
from pipeline.files import write_json


def record_timing(
    stage: str, key: str, *, seconds: float, images_per_second: float, device: str, placement: str = "this process"
) -> None:
    """Write timings/STAGE/KEY.json.

    Args:
        stage: train or evaluate.
        key: of the run.
        seconds: of the computation, without start-up.
        images_per_second: images that went through the model over seconds.
        device: in words.
        placement: which processes shared the work, in words.
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
    write_json(paths.TIMINGS / stage / f"{key}.json", content)


def git_revision() -> str | None:
    """The commit that ran, with '-dirty' after it if files differ; None outside a git checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # no git on this machine
        return None
    return described.stdout.strip() or None
