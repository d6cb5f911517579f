"""Time that the Prefect workflow adds to plain `dvc repro` of the same stages, which take seconds each.

Prediction: a temporary server takes 6 s to start, imports take 3 s, and each stage that runs takes 0.6 s more because
it is a separate DVC process: 10 s if nothing is stale, and 12 s for four stages.
"""

from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measuring import Entry, entry
from benchmarks.workflow import DVC, WORKFLOW, clone, override, run_timed

ROUNDS = 5
STAGES = ["evaluate@vae-0", "evaluate@planar-4-0", "evaluate@planar-10-0", "evaluate@real-nvp-2-0"]
SHORT_RUN = [
    "training.epochs=1",
    "training.min_steps=0",
    "training.batch_size=1000",
    "evaluation.num_elbo_samples=2",
    "evaluation.num_importance_samples=2",
    "evaluation.num_nll_images=10",
]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "FLOWVAE_DEVICE": "cpu"}


def measure() -> list[Entry]:
    """Run STAGES in a clone of the last commit, by DVC and by the workflow: first stale, then unchanged."""
    with TemporaryDirectory() as folder:
        project = clone(Path(folder) / "project")
        environment = ENVIRONMENT | {"PREFECT_HOME": str(Path(folder) / "prefect")}
        override(project, SHORT_RUN)
        run_timed([*DVC, *STAGES], project, ENVIRONMENT)
        # The database of the temporary server is created once per user, so it is not measured.
        run_timed([*WORKFLOW, "fetch"], project, environment)
        commands = {"plain": DVC, "workflow": [*WORKFLOW, "--concurrency", "1"]}
        times: dict[tuple[str, str], list[float]] = {}
        for i in range(ROUNDS):
            for j, (name, command) in enumerate(commands.items()):
                override(project, [f"evaluation.num_figure_images={1 + 2 * i + j}"])
                for state in ("stale", "unchanged"):
                    seconds = run_timed([*command, *STAGES], project, environment)
                    times.setdefault((name, state), []).append(seconds)
    stale, unchanged = ({name: median(times[name, state]) for name in commands} for state in ("stale", "unchanged"))
    conditions = (
        f"medians of {ROUNDS} rounds: {len(STAGES)} evaluate stages of a few seconds each: "
        f"dvc repro {stale['plain']:.1f} s, workflow one at a time {stale['workflow']:.1f} s; "
        f"nothing stale: dvc repro {unchanged['plain']:.1f} s, workflow {unchanged['workflow']:.1f} s"
    )
    overhead, fixed_overhead = (times_of["workflow"] - times_of["plain"] for times_of in (stale, unchanged))
    return [
        entry("workflow_overhead_s", overhead, "s", conditions, digits=3),
        entry("workflow_overhead_per_stage_s", (overhead - fixed_overhead) / len(STAGES), "s", conditions, digits=3),
        entry("workflow_unchanged_s", unchanged["workflow"], "s", conditions, digits=3),
    ]
