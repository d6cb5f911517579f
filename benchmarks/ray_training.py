"""Cost of Ray Train once it has started, and speed-up from a second worker.

Steps are timed only after the first ones: the start of Ray, of the group and of DistributedDataParallel's buckets is
paid once per run, not per step.

Prediction: one worker runs the same loop in another process, so its time is 1.00 to 1.02 times that of fit. Two workers
at a global batch of 512 sum 3.4 MB of gradients per step over loopback, which takes about 5 ms beside 40 ms of
computation for each half, and a half fits the cache better: 1.8 to 1.9 times as fast as one worker. At 96, the halves
take 8 ms and the same 5 ms matter more: 1.3.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.measuring import Entry, entry
from flowvae.data.arrays import open_images
from flowvae.data.images import ImageSet
from flowvae.model.loading import build_vae
from flowvae.model.settings import VAEConfig
from flowvae.training.config import TrainingConfig
from flowvae.training.loop import fit
from flowvae.training.workers import SingleWorker, Workers
from pipeline.device import keep_freed_memory
from pipeline.params.reading import load_params
from pipeline.running.placement import find_placement

VARIANT, ROUNDS, RUNS = "vae", 3, 3
STEPS = {96: 150, 512: 40}  # by global batch size
WARM_STEPS = 10
# Batch sizes of the results whose names do not contain one.
MAIN_BATCH_SIZES = {"ray_over_fit": 96, "two_workers_speedup": 512}


@dataclass(frozen=True)
class Setup:
    """What every process trains.

    Args:
        model: of the variant.
        training: settings of params.yaml.
        prepared: folder of the data.
    """

    model: VAEConfig
    training: TrainingConfig
    prepared: Path


def measure() -> list[Entry]:
    """Train in this process, in one Ray worker and in two Ray workers, interleaved; one thread each.

    The current folder is the project's, and the stage `prepare` has run.
    """
    import ray

    from pipeline.distributed.cluster import connect

    params = load_params(Path("params.yaml"))
    setup = Setup(params.vae_config(VARIANT, (1, 28, 28)), params.training, Path("data/prepared").resolve())
    torch.set_num_threads(1)
    connect(find_placement("2", 2, 0, {}))  # as the stage `train` does
    rounds: dict[str, list[dict[int, float]]] = {"fit": [], "one": [], "two": []}
    for _ in range(ROUNDS):
        rounds["fit"].append(speeds(setup, SingleWorker()))
        rounds["one"].append(speeds_of_group(setup, 1))
        rounds["two"].append(speeds_of_group(setup, 2))
    ray.shutdown()
    results = []
    for name, numerator, denominator in (("ray_over_fit", "fit", "one"), ("two_workers_speedup", "two", "one")):
        for batch_size in STEPS:
            pairs = zip(rounds[numerator], rounds[denominator], strict=True)
            ratio = median(a[batch_size] / b[batch_size] for a, b in pairs)
            medians = {key: round(median(each[batch_size] for each in values)) for key, values in rounds.items()}
            conditions = (
                f"{VARIANT}, steps {WARM_STEPS} to {STEPS[batch_size]} of a run at a global batch of {batch_size}, "
                f"float32, one thread per process, median of {ROUNDS} interleaved rounds; images/s: "
                f"fit {medians['fit']}, 1 worker {medians['one']}, 2 workers {medians['two']}"
            )
            key = name if batch_size == MAIN_BATCH_SIZES[name] else f"{name}_{batch_size}"
            results.append(entry(key, ratio, "ratio", conditions, digits=3))
    return results


def speeds_of_group(setup: Setup, num_workers: int) -> dict[int, float]:
    """Images/s of fit by batch size, on a group of Ray workers."""
    import ray.train
    import ray.train.torch

    with TemporaryDirectory() as storage:
        trainer = ray.train.torch.TorchTrainer(
            speeds_as_worker,
            train_loop_config={"setup": setup},
            torch_config=ray.train.torch.TorchConfig(backend="gloo"),
            scaling_config=ray.train.ScalingConfig(num_workers=num_workers),
            run_config=ray.train.RunConfig(storage_path=storage),
        )
        return trainer.fit().return_value


def speeds_as_worker(config: dict[str, Any]) -> dict[int, float]:
    """Images/s of fit by batch size, as one worker of a group."""
    from pipeline.distributed.workers import current_workers

    torch.set_num_threads(1)
    return speeds(config["setup"], current_workers())


def speeds(setup: Setup, workers: Workers) -> dict[int, float]:
    """Images/s of fit by batch size, each the median of RUNS."""
    keep_freed_memory()  # as in every process that trains
    images = open_images(setup.prepared, "train", torch.device("cpu"))
    medians = {}
    for batch_size, num_steps in STEPS.items():
        training = setup.training.model_copy(update={"epochs": 1, "min_steps": 0, "batch_size": batch_size})
        train = ImageSet(images.pixels[: batch_size * num_steps].clone(), images.reading)
        valid = ImageSet(train.pixels[:10], images.reading)
        medians[batch_size] = median(
            images_per_second(setup.model, training, train, valid, workers) for _ in range(RUNS)
        )
    return medians


def images_per_second(
    model: VAEConfig, training: TrainingConfig, train: ImageSet, valid: ImageSet, workers: Workers
) -> float:
    """Throughput of the steps of one epoch after the first WARM_STEPS."""
    ends = []
    fit(
        build_vae(model, seed=0),
        train,
        valid,
        training,
        seed=0,
        workers=workers,
        on_step=lambda step, num_steps: ends.append(time.perf_counter()),
    )
    timed = ends[WARM_STEPS - 1 :]
    return training.batch_size * (len(timed) - 1) / (timed[-1] - timed[0])
