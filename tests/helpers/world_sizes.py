"""Losses of the first steps with several numbers of Ray workers, as JSON: world_sizes.py PREPARED DTYPE STEPS SIZES...

It is a process of its own, because starting Ray leaves threads and warnings behind. The last batch is smaller.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import ray
import ray.train
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from flowvae.data.arrays import open_images
from flowvae.data.images import ImageSet
from flowvae.model.loading import build_vae
from flowvae.training.loop import fit
from pipeline.distributed.workers import current_workers
from pipeline.params.reading import load_params
from pipeline.params.schema import Params


class Recorder:
    """Workers that record the sum of the losses of each step."""

    def __init__(self, workers):
        self.workers, self.sums, self.sizes = workers, [], []

    def loss(self, values, batch_size):
        self.sums.append(values.detach().double().sum())
        self.sizes.append(batch_size)
        return self.workers.loss(values, batch_size)

    def __getattr__(self, name):
        return getattr(self.workers, name)


def train_as_worker(config):
    """Train for some steps, and return the losses of the global batches."""
    torch.set_num_threads(1)
    params: Params = config["params"]
    dtype = getattr(torch, config["dtype"])
    train, valid = (open_images(config["prepared"], split, torch.device("cpu")) for split in ("train", "valid"))
    batch = params.training.batch_size
    train = ImageSet(train.pixels[: batch * config["steps"] - batch // 2 - 1], train.reading)
    valid = ImageSet(valid.pixels[:11], valid.reading)
    vae = build_vae(params.vae_config(config["variant"], train.image_shape), seed=0).to(dtype)
    recorder = Recorder(current_workers())
    records = fit(vae, train, valid, params.training, seed=0, workers=recorder)
    losses = recorder.sum(torch.stack(recorder.sums)) / torch.tensor(recorder.sizes)
    return {"losses": losses.tolist(), "valid": records[-1].valid_negative_elbo}


def main(prepared, dtype, steps, *sizes):
    params = load_params(Path("params.yaml"))
    training = params.training.model_copy(update={"epochs": 1, "min_steps": 0})
    params = params.model_copy(update={"training": training})
    variant = next(name for name in params.variants if name.startswith("real-nvp"))
    config = {
        "params": params,
        "variant": variant,
        "prepared": Path(prepared).resolve(),
        "dtype": dtype,
        "steps": int(steps),
    }
    ray.init(address="local", num_cpus=max(map(int, sizes)), log_to_driver=False)
    results = {}
    for size in sizes:
        with TemporaryDirectory() as storage:
            results[size] = (
                TorchTrainer(
                    train_as_worker,
                    train_loop_config=config,
                    torch_config=TorchConfig(backend="gloo"),
                    scaling_config=ScalingConfig(num_workers=int(size)),
                    run_config=RunConfig(storage_path=storage),
                )
                .fit()
                .return_value
            )
    ray.shutdown()
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
