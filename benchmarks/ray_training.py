"""What Ray Train costs once it has started, and what a second worker brings.

Steps are timed once the first ones are over: starting Ray, the group and DistributedDataParallel's buckets
is paid once per run, not per step.

Prediction: one worker runs the same loop in another process, so 1.00 to 1.02. Two workers at a global
batch of 512 add up 3.4 MB of gradients per step over loopback, some 5 ms beside 40 ms of computing
each half, and a half fits the cache better: 1.8 to 1.9 times one worker. At 96 the halves take 8 ms and
the same 5 ms weigh more: 1.3.
"""

import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from flowvae.data.arrays import open_images
from flowvae.data.images import ImageSet
from flowvae.training import fit
from flowvae.training_config import TrainingConfig
from flowvae.vae import build_vae
from flowvae.workers import Alone, Workers
from pipeline.device import keep_freed_memory
from pipeline.params import load_params
from pipeline.placement import find_placement

VARIANT, ROUNDS, RUNS = "vae", 5, 3
STEPS = {96: 150, 512: 40}  # by global batch
WARM_STEPS = 10


def measure() -> list[dict[str, object]]:
    """Rounds of: this process, one Ray worker, two Ray workers; one thread each."""
    from pipeline.distributed.cluster import connect
    from pipeline.distributed.training import ray, workers_here

    params = load_params(Path("params.yaml"))
    config = {
        "model": params.vae_config(VARIANT, (1, 28, 28)),
        "training": params.training,
        "folder": Path("data/prepared").resolve(),
    }
    torch.set_num_threads(1)

    def work(config: dict[str, Any]) -> dict[int, float]:
        torch.set_num_threads(1)
        return speeds(config, workers_here())

    connect(find_placement("2", 2, 0, {}))  # as the train stage does
    found: dict[str, list[dict[int, float]]] = {"fit": [], "one": [], "two": []}
    for _ in range(ROUNDS):
        found["fit"].append(speeds(config, Alone()))
        for name, count in (("one", 1), ("two", 2)):
            with TemporaryDirectory() as storage:
                trainer = ray.train.torch.TorchTrainer(
                    work,
                    train_loop_config=config,
                    torch_config=ray.train.torch.TorchConfig(backend="gloo"),
                    scaling_config=ray.train.ScalingConfig(num_workers=count),
                    run_config=ray.train.RunConfig(storage_path=storage),
                )
                found[name].append(trainer.fit().return_value)
    ray.shutdown()
    results = []
    for name, slow, fast in (("ray_over_fit", "fit", "one"), ("two_workers_speedup", "two", "one")):
        for batch in STEPS:
            ratio = median(a[batch] / b[batch] for a, b in zip(found[slow], found[fast], strict=True))
            speed = {key: round(median(each[batch] for each in values)) for key, values in found.items()}
            conditions = (
                f"{VARIANT}, steps {WARM_STEPS} to {STEPS[batch]} of a run at a global batch of {batch}, float32, one "
                f"thread per process, median of {ROUNDS} interleaved rounds; images/s: fit {speed['fit']}, "
                f"1 worker {speed['one']}, 2 workers {speed['two']}"
            )
            key = name if batch == (512 if name == "two_workers_speedup" else 96) else f"{name}_{batch}"
            results.append({"name": key, "value": round(ratio, 3), "unit": "ratio", "conditions": conditions})
    return results


def speeds(config: dict[str, Any], workers: Workers) -> dict[int, float]:
    """Images/s of fit by batch size, each the median of RUNS."""
    keep_freed_memory()  # as every process that trains does
    images = open_images(config["folder"], "train", torch.device("cpu"))
    found = {}
    for batch, steps in STEPS.items():
        training = config["training"].model_copy(update={"epochs": 1, "min_steps": 0, "batch_size": batch})
        part = ImageSet(images.pixels[: batch * steps].clone(), images.reading)
        few = ImageSet(part.pixels[:10], images.reading)
        found[batch] = median(images_per_second(config, training, part, few, workers) for _ in range(RUNS))
    return found


def images_per_second(
    config: dict[str, Any], training: TrainingConfig, train: ImageSet, valid: ImageSet, workers: Workers
) -> float:
    """Over the steps of one epoch that follow the first few."""
    ends = []
    fit(
        build_vae(config["model"], seed=0),
        train,
        valid,
        training,
        seed=0,
        workers=workers,
        on_step=lambda step, num_steps: ends.append(time.perf_counter()),
    )
    timed = ends[WARM_STEPS - 1 :]
    return training.batch_size * (len(timed) - 1) / (timed[-1] - timed[0])
