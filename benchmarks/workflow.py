"""What running stages side by side by the Prefect workflow brings over plain `dvc repro`.

Prediction: two trainings of one thread do not disturb each other, and two threads make one training 1.5 times as fast:
the workflow is 2.0 / 1.5 = 1.33 times as fast where there are stages enough, and no faster in the sweeps, which fill
all cores in either case; its fixed costs are 15 s (workflow_overhead): 1.25 in all.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

DVC = [sys.executable, "-m", "dvc", "repro"]
WORKFLOW = [sys.executable, "-m", "pipeline.workflow"]


def measure() -> list[dict[str, object]]:
    """In clones of the last commit, each with an empty cache: all by DVC, all by the workflow. Half an hour."""
    with TemporaryDirectory() as folder:
        serial, beside = (clone(Path(folder) / name) for name in ("serial", "beside"))
        home = {"PREFECT_HOME": str(Path(folder) / "prefect")}
        timed([*WORKFLOW, "fetch"], beside, home)  # the database of the temporary server is made once per user
        alone = timed(DVC, serial, {})
        together = timed(WORKFLOW, beside, home)
    conditions = "clean clone, all stages, params.yaml as it is, full MNIST; a temporary server"
    return [entry("workflow_speedup", alone / together, "ratio", f"{alone:.0f} s / {together:.0f} s; {conditions}")]


def entry(name: str, value: float, unit: str, conditions: str) -> dict[str, object]:
    return {"name": name, "value": round(value, 3), "unit": unit, "conditions": conditions}


def clone(project: Path) -> Path:
    """The last commit."""
    subprocess.run(["git", "clone", "--quiet", str(Path.cwd()), str(project)], check=True)
    return project


def timed(command: Sequence[str], project: Path, settings: dict[str, str]) -> float:
    """Seconds of a command in a project."""
    started = time.perf_counter()
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    ours = {"PYTHONPATH": str(project), "VIRTUAL_ENV": sys.prefix, "PATH": path}
    environment = os.environ | ours | settings
    with (project.parent / "log.txt").open("ab") as log:
        subprocess.run(command, cwd=project, env=environment, stdout=log, stderr=log, check=True)
    taken = time.perf_counter() - started
    print(f"{project.name}: {' '.join(command[2:])}: {taken:.1f} s", flush=True)
    return taken
