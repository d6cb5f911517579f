"""Time that the stage `train` takes relative to a bare loop of the same model, everything included.

Prediction: what fit() adds to the loop (a generator per draw, sums, a callback) is about 1% of a step. The start of
DVC, the hashing of outputs and the checks of the inputs add 3 to 4 s to a run of 50 to 70 s. So the ratio is 1.05 to
1.08.
"""

import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measuring import Entry, elapsed, entry

VARIANT, SEED, REPEATS = "vae", 0, 3  # the fastest variant, for which fixed costs matter most


def measure() -> list[Entry]:
    """Run whole processes, interleaved. The current folder is the project's, and the stage `prepare` has run."""
    run = f"{VARIANT}-{SEED}"
    dvc = str(Path(sys.executable).with_name("dvc"))
    stage = [dvc, "repro", "--single-item", "--force", f"train@{run}"]
    bare_loop = [sys.executable, "-m", "benchmarks.bare_loop", VARIANT, str(SEED)]
    times = [(seconds_of(bare_loop), seconds_of(stage)) for _ in range(REPEATS)]
    ratio = median(stage_seconds / bare_seconds for bare_seconds, stage_seconds in times)
    rounds = ", ".join(f"{bare_seconds:.1f} s / {stage_seconds:.1f} s" for bare_seconds, stage_seconds in times)
    conditions = (
        f"dvc repro --single-item --force train@{run} over python -m benchmarks.bare_loop {VARIANT} {SEED}, whole "
        f"processes, default params, both validate each epoch, interleaved, median of {REPEATS} "
        f"(bare / stage: {rounds})"
    )
    return [entry("pipeline_over_bare_loop", ratio, "ratio", conditions, digits=3)]


def seconds_of(command: list[str]) -> float:
    """Wall time of a command, whose output is discarded."""
    return elapsed(partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL))
