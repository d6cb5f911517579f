"""What the Prefect workflow costs over plain `dvc repro` of the same stages, which take seconds.

Prediction: a temporary server takes 6 s to start, imports 3 s, and each stage that runs 0.6 s more, since it is a
process of DVC's of its own: 10 s where nothing is stale, and 15 s for nine stages.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from dvc.repo import Repo

from benchmarks.workflow import DVC, WORKFLOW, clone, entry, timed
from pipeline.overrides import with_overrides

ROUNDS = 5
QUICK = [
    "training.epochs=1",
    "training.min_steps=0",
    "training.batch_size=1000",
    "evaluation.num_elbo_samples=2",
    "evaluation.num_importance_samples=2",
    "evaluation.num_nll_images=10",
]
SETTINGS = {"OMP_NUM_THREADS": "1", "FLOWVAE_DEVICE": "cpu"}


def measure() -> list[dict[str, object]]:
    """In a clone of the last commit: rounds of scores anew and of nothing to do, each plain and by the workflow."""
    with TemporaryDirectory() as folder:
        project, home = clone(Path(folder) / "project"), {"PREFECT_HOME": str(Path(folder) / "prefect")}
        override(project, QUICK)
        timed([*DVC, "evaluate"], project, SETTINGS)
        timed([*WORKFLOW, "fetch"], project, SETTINGS | home)  # the database of the server is made once per user
        num_stages = sum(stage.name.startswith("evaluate@") for stage in Repo(str(project)).index.stages)
        commands = {"plain": DVC, "workflow": [*WORKFLOW, "--concurrency", "1"]}
        seconds: dict[tuple[str, str], list[float]] = {}
        for i in range(ROUNDS):
            for j, (name, command) in enumerate(commands.items()):
                override(project, [f"evaluation.num_figure_images={1 + 2 * i + j}"])
                for what in ("stale", "unchanged"):
                    spent = timed([*command, "evaluate"], project, SETTINGS | home)
                    seconds.setdefault((name, what), []).append(spent)
    stale, unchanged = ({name: median(seconds[name, what]) for name in commands} for what in ("stale", "unchanged"))
    conditions = (
        f"medians of {ROUNDS} rounds: {num_stages} scores of seconds by dvc repro {stale['plain']:.1f} s, by the "
        f"workflow one at a time {stale['workflow']:.1f} s; nothing stale: {unchanged['plain']:.1f} s, "
        f"{unchanged['workflow']:.1f} s"
    )
    overhead, fixed = (each["workflow"] - each["plain"] for each in (stale, unchanged))
    return [
        entry("workflow_overhead_s", overhead, "s", conditions),
        entry("workflow_overhead_per_stage_s", (overhead - fixed) / num_stages, "s", conditions),
        entry("workflow_unchanged_s", unchanged["workflow"], "s", conditions),
    ]


def override(project: Path, values: Sequence[str]) -> None:
    """Change params.yaml."""
    path = project / "params.yaml"
    path.write_text(with_overrides(path, values))
