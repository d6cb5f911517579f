"""Where each stage reads and writes, relative to the project's folder. dvc.yaml names the same files."""

import os
from collections.abc import Callable
from pathlib import Path

PARAMS = Path("params.yaml")
SOURCE = Path("data/source.json")
DOWNLOADS = Path("data/raw")
PREPARED = Path("data/prepared")
MODELS = Path("models")
CURVES = Path("curves")
METRICS = Path("metrics")
PROTOCOLS = METRICS / "protocol"
REPORTS = Path("reports")
FIGURES = REPORTS / "figures"
TIMINGS = Path("timings")  # not an output of any stage: times differ from run to run
LOGS = Path("logs")
CHECKPOINTS = Path("checkpoints")  # of runs that were not finished; no output of any stage


def find_root(holds: Callable[[Path], bool]) -> Path | None:
    """The first of `data_roots` that holds what is looked for."""
    return next(filter(holds, data_roots()), None)


def data_roots() -> list[Path]:
    """Where data files are looked for: FLOWVAE_DATA_ROOT if set, then earlier downloads."""
    given = os.environ.get("FLOWVAE_DATA_ROOT")
    return [Path(given), DOWNLOADS] if given else [DOWNLOADS]
