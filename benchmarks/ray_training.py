"""What Ray Train costs once it has started, and what a second worker brings.

Prediction: one worker runs the same loop in another process, so 1.00 to 1.02. Two workers at a global
batch of 512 add up 3.5 MB of gradients per step over loopback, some 5 ms beside 40 ms of computing
each half: 1.7 to 1.8 times one worker. At 96 the halves take 8 ms and the same 5 ms weigh more: 1.3.
"""

import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from flowvae.data.arrays import open_images
from flowvae.training import fit
from flowvae.vae import build_vae
from flowvae.workers import Alone, Workers
from pipeline.params import load_params

VARIANT, STEPS, ROUNDS = "vae", 40, 3
BATCH_SIZES = (96, 512)


def measure() -> list[dict[str, object]]:
    """Rounds of: this process, one Ray worker, two Ray workers; one thread each."""
    from pipeline.distributed import RayWorkers, ray

    params = load_params(Path("params.yaml"))
    config = {
        "model": params.vae_config(VARIANT, (1, 28, 28)),
        "training": params.training,
        "folder": Path("data/prepared").resolve(),
    }
    torch.set_num_threads(1)

    def work(config: dict[str, Any]) -> dict[int, float]:
        torch.set_num_threads(1)
        context = ray.train.get_context()
        count = context.get_world_size()
        return speeds(config, Alone() if count == 1 else RayWorkers(context.get_world_rank(), count))

    ray.init(address="local", num_cpus=2, log_to_driver=False)
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
        for batch in BATCH_SIZES:
            ratio = median(a[batch] / b[batch] for a, b in zip(found[slow], found[fast], strict=True))
            speed = {key: round(median(each[batch] for each in values)) for key, values in found.items()}
            conditions = (
                f"{VARIANT}, {STEPS} steps at a global batch of {batch}, float32, one thread per process, median of "
                f"{ROUNDS} interleaved rounds; images/s: fit {speed['fit']}, "
                f"1 worker {speed['one']}, 2 workers {speed['two']}"
            )
            key = name if batch == (512 if name == "two_workers_speedup" else 96) else f"{name}_{batch}"
            results.append({"name": key, "value": round(ratio, 3), "unit": "ratio", "conditions": conditions})
    return results


def speeds(config: dict[str, Any], workers: Workers) -> dict[int, float]:
    """Images/s of fit by batch size, each the median of three runs after one that warms up."""
    images = open_images(config["folder"], "train", torch.device("cpu"))
    found = {}
    for batch in BATCH_SIZES:
        training = config["training"].model_copy(update={"epochs": 1, "min_steps": 0, "batch_size": batch})
        part = type(images)(images.pixels[: batch * STEPS].clone(), images.dynamic)
        few = type(images)(part.pixels[:batch], images.dynamic)
        times = []
        for _ in range(4):
            vae = build_vae(config["model"], seed=0)
            started = time.perf_counter()
            fit(vae, part, few, training, seed=0, workers=workers)
            times.append(time.perf_counter() - started)
        found[batch] = batch * STEPS / median(times[1:])
    return found
