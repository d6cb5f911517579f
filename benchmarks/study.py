"""Overhead of Ray Tune per trial once Ray has started, and speed-up from two trials in parallel.

Prediction: actors are reused, so only the first trial on each core pays for the import of torch (3 s). Every other
trial costs some tenths of a second, so the mean over eight trials is 1 s. Two parallel trials of one thread share
nothing except the memory bus: 1.8 to 1.9 times as fast as one after another.
"""

import os
import time
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch

from benchmarks.measuring import Entry, entry
from flowvae.data.arrays import read_metadata
from flowvae.training.checkpoint import NoCheckpoints
from pipeline.params.reading import load_params
from pipeline.params.schema import Params, StudyConfig
from pipeline.running.machine import available_cpus
from pipeline.running.placement import Placement, find_trial_placement
from pipeline.study.points import Study
from pipeline.study.trials import run_trial

ROUNDS, TRIALS = 2, 8
NAME = "benchmark"


def measure() -> list[Entry]:
    """Run all trials one after another in this process, then as a study; one thread per trial.

    The current folder is the project's, and the stage `prepare` has run.
    """
    study, prepared = short_study(load_params(Path("params.yaml"))), Path("data/prepared").resolve()
    num_images = read_metadata(prepared).counts["train"]
    torch.set_num_threads(1)
    serial_times, study_times = [], []
    for _ in range(ROUNDS):
        with TemporaryDirectory() as storage:
            placement = find_trial_placement(1, 0, os.environ | {"FLOWVAE_STORAGE": storage})
            serial_time, study_time = compare(study, prepared, placement)
        serial_times.append(serial_time)
        study_times.append(study_time)
    pairs = list(zip(serial_times, study_times, strict=True))
    slots = available_cpus()
    overhead = mean(slots * study_time - serial_time for serial_time, study_time in pairs) / TRIALS
    speedup = mean(serial_time / study_time for serial_time, study_time in pairs)
    rounds = ", ".join(f"{serial_time:.1f} s / {study_time:.1f} s" for serial_time, study_time in pairs)
    conditions = (
        f"{TRIALS} trials of vae (an epoch of {num_images:,} images, then scored), one thread each, mean of {ROUNDS} "
        f"rounds, without the start of Ray (one after another in one process / as a study: {rounds})"
    )
    return [
        entry("trial_overhead_s", overhead, "s", conditions, digits=2),
        entry("sweep_parallel_speedup", speedup, "ratio", conditions, digits=3),
    ]


def compare(study: Study, prepared: Path, placement: Placement) -> tuple[float, float]:
    """Seconds of all trials one after another in this process, and as a study, without the start of Ray."""
    import ray

    from pipeline.distributed.cluster import connect
    from pipeline.distributed.tuning import StudyRun, run_study

    run = StudyRun(study, read_metadata(prepared), prepared, placement)
    trials = [run.trial(point) for point in study.grid()]
    started = time.perf_counter()
    for trial in trials:
        run_trial(trial, prepared, torch.device("cpu"), NoCheckpoints(), lambda record: None)
    serial_time = time.perf_counter() - started
    started = time.perf_counter()
    connect(placement)
    ray.shutdown()
    time_to_start_ray = time.perf_counter() - started
    started = time.perf_counter()
    run_study(run)
    return serial_time, time.perf_counter() - started - time_to_start_ray


def short_study(params: Params) -> Study:
    """A study of the plain VAE with TRIALS seeds."""
    config = StudyConfig.model_validate(
        {
            "families": {"none": {"posterior": {"flow": "none"}, "prior": {"flow": "none"}}},
            "seeds": list(range(TRIALS)),
            "settings": {
                "training": {"epochs": 1},
                "evaluation": {"num_elbo_samples": 2, "num_importance_samples": 20, "num_nll_images": 100},
            },
            "over": {},
            "search": {"name": "grid"},
            "early_stopping": {"name": "none"},
        }
    )
    return Study(NAME, params.model_copy(update={"studies": {NAME: config}}))
