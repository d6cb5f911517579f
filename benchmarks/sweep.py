"""What Ray Tune costs per trial once Ray is up, and what two trials at a time bring.

Prediction: actors are reused, so importing torch (3 s) is paid by the first trial on each core alone; a trial then
costs some tenths of a second, 1 s on average over eight. Two trials of one thread at a time do not
share anything but the memory bus: 1.8 to 1.9 times one after another.
"""

import os
import time
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch

from flowvae.checkpoint import NoCheckpoints
from flowvae.data.arrays import read_metadata
from pipeline.params import Params, load_params
from pipeline.placement import find_trial_placement
from pipeline.sweeps import Budget, SweepConfig
from pipeline.trials import run_trial

ROUNDS, TRIALS = 2, 8


def measure() -> list[dict[str, object]]:
    """Rounds of: all trials one after another in this process, then as a sweep; one thread per trial."""
    from pipeline.distributed.tuning import Sweep, connect, grid, ray, run_sweep

    params, prepared = short_trials(load_params(Path("params.yaml"))), Path("data/prepared").resolve()
    torch.set_num_threads(1)
    alone, together = [], []
    for _ in range(ROUNDS):
        with TemporaryDirectory() as storage:
            placement = find_trial_placement(1, 0, os.environ | {"FLOWVAE_STORAGE": storage})
            sweep = Sweep(params, read_metadata(prepared), prepared, placement)
            trials = [sweep.trial(point) for point in grid(params)]
            started = time.perf_counter()
            for trial in trials:
                run_trial(trial, prepared, torch.device("cpu"), NoCheckpoints(), lambda record: None)
            alone.append(time.perf_counter() - started)
            started = time.perf_counter()
            connect(placement)
            ray.shutdown()
            up = time.perf_counter() - started
            started = time.perf_counter()
            run_sweep(sweep)
            together.append(time.perf_counter() - started - up)
    slots = os.cpu_count() or 1
    overhead = mean(slots * wall - work for wall, work in zip(together, alone, strict=True)) / TRIALS
    each = ", ".join(f"{work:.1f} s / {wall:.1f} s" for work, wall in zip(alone, together, strict=True))
    conditions = (
        f"{TRIALS} trials of vae (an epoch of 50,000 images, scored), one thread each, mean of {ROUNDS} rounds, the "
        f"start of Ray taken off (one after another in a process / as a sweep: {each})"
    )
    speedup = mean(work / wall for work, wall in zip(alone, together, strict=True))
    return [
        {"name": "trial_overhead_s", "value": round(overhead, 2), "unit": "s", "conditions": conditions},
        {"name": "sweep_parallel_speedup", "value": round(speedup, 3), "unit": "ratio", "conditions": conditions},
    ]


def short_trials(params: Params) -> Params:
    """Eight seeds of the plain VAE."""
    budget = Budget.model_validate(
        params.sweep.chosen.model_dump(mode="json")
        | {
            "families": {"none": {"flow": {"flow": "none"}, "num_transforms": [0]}},
            "seeds": list(range(TRIALS)),
            "settings": {
                "training": {"epochs": 1},
                "evaluation": {"num_elbo_samples": 2, "num_importance_samples": 20, "num_nll_images": 100},
            },
        }
    )
    return params.model_copy(update={"sweep": SweepConfig(budget="bench", budgets={"bench": budget})})
