"""Speed-up from the Prefect workflow, which runs stages in parallel, over plain `dvc repro`.

Prediction: two trainings with one thread each do not slow each other down, and two threads make one training 1.5 times
as fast. So the workflow is 2.0 / 1.5 = 1.33 times as fast while there are enough stages. Its fixed cost is 15 s
(workflow_overhead): 1.25 in total.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measuring import Entry, entry
from pipeline.workflow.overrides import with_overrides

DVC = [sys.executable, "-m", "dvc", "repro"]
WORKFLOW = [sys.executable, "-m", "pipeline.workflow"]
TARGETS = ["evaluate", "interpolate"]  # without studies, which use all cores in either case
EPOCHS = "training.epochs=2"


def measure() -> list[Entry]:
    """Run TARGETS in clones of the last commit with empty caches, by DVC and by the workflow; takes 15 minutes."""
    with TemporaryDirectory() as folder:
        dvc_project, workflow_project = (clone(Path(folder) / name) for name in ("dvc", "workflow"))
        prefect_home = {"PREFECT_HOME": str(Path(folder) / "prefect")}
        for project in (dvc_project, workflow_project):
            override(project, [EPOCHS])
        # The database of the temporary server is created once per user, so it is not measured.
        run_timed([*WORKFLOW, "fetch"], workflow_project, prefect_home)
        dvc_seconds = run_timed([*DVC, *TARGETS], dvc_project, {})
        workflow_seconds = run_timed([*WORKFLOW, *TARGETS], workflow_project, prefect_home)
    conditions = (
        f"{dvc_seconds:.0f} s / {workflow_seconds:.0f} s; clean clone, {' and '.join(TARGETS)} and what they need, "
        f"params.yaml of the last commit with {EPOCHS}, full MNIST; a temporary server"
    )
    return [entry("workflow_speedup", dvc_seconds / workflow_seconds, "ratio", conditions, digits=3)]


def clone(project: Path) -> Path:
    """Clone the last commit of the project in the current folder.

    Args:
        project: folder to create.

    Returns:
        The same folder.
    """
    subprocess.run(["git", "clone", "--quiet", str(Path.cwd()), str(project)], check=True)
    return project


def override(project: Path, values: Sequence[str]) -> None:
    """Replace values in params.yaml of a project."""
    path = project / "params.yaml"
    text, _ = with_overrides(path, values)
    path.write_text(text)


def run_timed(command: Sequence[str], project: Path, settings: dict[str, str]) -> float:
    """Run a command in a project, with its output in log.txt beside the project.

    Args:
        command: starts with this Python and -m.
        project: the folder, whose code is used.
        settings: environment variables to add.

    Returns:
        Seconds.
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = os.environ | {"PYTHONPATH": str(project), "VIRTUAL_ENV": sys.prefix, "PATH": path} | settings
    started = time.perf_counter()
    with (project.parent / "log.txt").open("ab") as log:
        subprocess.run(command, cwd=project, env=environment, stdout=log, stderr=log, check=True)
    seconds = time.perf_counter() - started
    print(f"{project.name}: {' '.join(command[2:])}: {seconds:.1f} s", flush=True)
    return seconds
