"""What the train stage costs over a bare loop of the same model, everything included.

Prediction: the loop's own additions (a generator per draw, sums, a callback) are about 1% of a step;
DVC's start, hashing of outputs and the checks of the inputs add 3 to 4 s to a run of 50 to 70 s.
So 1.05 to 1.08.
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

VARIANT, SEED, REPEATS = "vae", 0, 5  # the quickest variant: fixed costs weigh most


def measure() -> list[dict[str, object]]:
    """Interleaved wall times of whole processes, from the project's folder with `prepare` done."""
    run = f"{VARIANT}-{SEED}"
    dvc = str(Path(sys.executable).with_name("dvc"))
    stage = [dvc, "repro", "--single-item", "--force", f"train@{run}"]
    bare = [sys.executable, "-m", "benchmarks.bare_loop", VARIANT, str(SEED)]
    times = [(seconds(bare), seconds(stage)) for _ in range(REPEATS)]
    ratio = median(slow / fast for fast, slow in times)
    each = ", ".join(f"{fast:.1f} s / {slow:.1f} s" for fast, slow in times)
    conditions = (
        f"dvc repro --single-item --force train@{run} over python -m benchmarks.bare_loop {VARIANT} {SEED}, whole "
        f"processes, default params, both validate each epoch, interleaved, median of {REPEATS} (bare / stage: {each})"
    )
    return [{"name": "pipeline_over_bare_loop", "value": round(ratio, 3), "unit": "ratio", "conditions": conditions}]


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started
