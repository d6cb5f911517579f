"""What the Prefect workflow costs over plain `dvc repro`, and what running stages side by side brings.

Prediction: a temporary server takes 6 s to start, imports 3 s, and each stage that runs 1 s more, since it is a
process of DVC's of its own: 10 s in all and 1 s per stage. Two trainings of one thread do not disturb each other, and
two threads make one training 1.5 times as fast: the workflow is 2.0 / 1.5 = 1.33 times as fast where there are
stages enough, and no faster in the sweep, which fills all cores in either case: 1.25 in all.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from dvc.repo import Repo

from pipeline.overrides import with_overrides

QUICK = [
    "evaluation.num_elbo_samples=2",
    "evaluation.num_importance_samples=2",
    "evaluation.num_nll_images=10",
    "sweep.budgets.short.settings.evaluation.num_nll_images=200",
]  # scores in seconds, and the sweep as it was
DVC = [sys.executable, "-m", "dvc", "repro"]
WORKFLOW = [sys.executable, "-m", "pipeline.workflow"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def measure() -> list[dict[str, object]]:
    """In clones of the last commit, each with an empty cache: all by DVC, all by the workflow; then scores alone."""
    with TemporaryDirectory() as folder:
        serial, beside = (clone(Path(folder) / name) for name in ("serial", "beside"))
        home = {"PREFECT_HOME": str(Path(folder) / "prefect")}
        timed([*WORKFLOW, "fetch"], beside, home)  # the database of the temporary server is made once per user
        alone = timed(DVC, serial, {})
        together = timed(WORKFLOW, beside, home)
        rest = timed(DVC, serial, {}), timed(WORKFLOW, beside, home)
        stages = [stage for stage in Repo(str(serial)).index.stages if stage.name.startswith("evaluate")]
        targets = ["evaluate"]
        for project in (serial, beside):
            (project / "params.yaml").write_text(with_overrides(project / "params.yaml", QUICK))
        plain = timed([*DVC, *targets], serial, ONE_THREAD)
        tasks = timed([*WORKFLOW, "--concurrency", "1", *targets], beside, home | ONE_THREAD)
    conditions = "clean clone, all stages, params.yaml as it is, full MNIST; a temporary server"
    each = f"plain {plain:.1f} s, workflow one at a time {tasks:.1f} s; {len(stages)} scores of seconds"
    return [
        entry("workflow_speedup", alone / together, "ratio", f"{alone:.0f} s / {together:.0f} s; {conditions}"),
        entry("workflow_overhead_s", tasks - plain, "s", each),
        entry("workflow_overhead_per_stage_s", (tasks - plain - rest[1] + rest[0]) / len(stages), "s", each),
        entry("workflow_unchanged_s", rest[1], "s", f"nothing is stale; plain dvc repro {rest[0]:.1f} s"),
    ]


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
