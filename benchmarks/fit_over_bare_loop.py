"""Time that fit() takes relative to a bare hand-written loop of the same model, and the cost of a checkpoint.

Prediction: a generator per draw, a check of the loss and the sums of the learning curves take about 100 us of a step
of 11 to 25 ms, so the ratio is at most 1.02. A checkpoint of 4 times the weights (15 to 18 MB) is hashed and written in
about 40 ms: 0.5% of an epoch of 7 s.
"""

import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.bare_loop import bare_fit
from benchmarks.measuring import Entry, elapsed, entry
from flowvae.data.arrays import open_images
from flowvae.data.images import ImageSet
from flowvae.model.loading import build_vae
from flowvae.model.vae import VAE
from flowvae.training.checkpoint import CheckpointFolder, Interval
from flowvae.training.loop import fit
from flowvae.training.state import TrainingState
from flowvae.training.workers import SingleWorker
from pipeline.params.reading import load_params

VARIANTS = ("vae", "real-nvp-5")
ROUNDS, NUM_TRAIN, NUM_VALID, NUM_CHECKPOINTS = 5, 20_000, 1_000, 11


def measure() -> list[Entry]:
    """Run both loops, interleaved. The current folder is the project's, and the stage `prepare` has run."""
    params = load_params(Path("params.yaml"))
    config = params.training.model_copy(update={"epochs": 1, "min_steps": 0})
    all_train, all_valid = (
        open_images(Path("data/prepared"), split, torch.device("cpu")) for split in ("train", "valid")
    )
    train, valid = first_images(all_train, NUM_TRAIN), first_images(all_valid, NUM_VALID)
    results = []
    for variant in VARIANTS:
        model = params.vae_config(variant, train.image_shape)
        times = []
        for _ in range(ROUNDS + 1):
            vae_of_bare_loop, vae = build_vae(model, seed=0), build_vae(model, seed=0)
            bare_seconds = elapsed(partial(bare_fit, vae_of_bare_loop, train.pixels, valid.pixels, config))
            times.append((bare_seconds, elapsed(partial(fit, vae, train, valid, config, seed=0))))
        times = times[1:]  # the first round is a warm-up
        ratio = median(fit_seconds / bare_seconds for bare_seconds, fit_seconds in times)
        rounds = ", ".join(f"{bare_seconds:.2f} s / {fit_seconds:.2f} s" for bare_seconds, fit_seconds in times)
        conditions = (
            f"fit over a bare loop, {variant}, {NUM_TRAIN} training images in batches of {config.batch_size} and "
            f"{NUM_VALID} validation images, {torch.get_num_threads()} threads, interleaved, median of {ROUNDS} "
            f"(bare / fit: {rounds})"
        )
        name = "fit_over_bare_loop" if variant == "vae" else f"fit_over_bare_loop_{variant}"
        results.append(entry(name, ratio, "ratio", conditions, digits=3))
        epoch_seconds = median(fit_seconds for _, fit_seconds in times) * len(all_train) / NUM_TRAIN
        results.append(checkpoint_cost(variant, vae, epoch_seconds))
    return results


def first_images(images: ImageSet, count: int) -> ImageSet:
    """The first images of a set, copied into memory."""
    return ImageSet(images.pixels[:count].clone(), images.reading)


def checkpoint_cost(variant: str, vae: VAE, epoch_seconds: float) -> Entry:
    """Time to write a checkpoint, as a fraction of an epoch."""
    optimizer = torch.optim.AdamW(vae.parameters(), fused=True)
    for parameter in vae.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = TrainingState(vae, optimizer, 0.0, SingleWorker())
    state.best_weights = {name: value.clone() for name, value in vae.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = CheckpointFolder(Path(folder), Interval(1, "steps"), print)
        times = [elapsed(partial(checkpoints.offer, step, state.capture)) for step in range(1, NUM_CHECKPOINTS + 1)]
        size = max(path.stat().st_size for path in Path(folder).iterdir())
    conditions = (
        f"one checkpoint of {variant} ({size / 1e6:.1f} MB, {1000 * median(times):.0f} ms, median of {len(times)}) "
        f"over an epoch of {epoch_seconds:.1f} s"
    )
    return entry(f"checkpoint_over_epoch_{variant}", median(times) / epoch_seconds, "ratio", conditions, digits=4)
