"""Time of a row with a Real NVP prior relative to the plain VAE: whole epochs of fit, with validation.

Prediction: a step takes 1.21 times as long at a batch of 96 on one thread (the prior's ten nets are few operations on
little data, so about half of their time is the start of operations), validation without gradients less; 1.15 to 1.2.
"""

from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.measuring import Entry, elapsed, entry
from flowvae.data.arrays import open_images
from flowvae.model.loading import build_vae
from flowvae.training.loop import fit
from pipeline.device import keep_freed_memory
from pipeline.params.reading import load_params

PLAIN, ROW = "vae", "prior-real-nvp-5"
ROUNDS = 5


def measure() -> list[Entry]:
    """Train both for one epoch, interleaved. The current folder is the project's, and the stage `prepare` has run."""
    keep_freed_memory()
    params, num_threads = load_params(Path("params.yaml")), torch.get_num_threads()
    config = params.training.model_copy(update={"epochs": 1, "min_steps": 0})
    train, valid = (open_images(Path("data/prepared"), split, torch.device("cpu")) for split in ("train", "valid"))
    torch.set_num_threads(1)  # as many as each of two trainings has on two cores
    times: list[tuple[float, float]] = []
    for _ in range(ROUNDS + 1):
        models = (build_vae(params.vae_config(name, train.image_shape), seed=0) for name in (PLAIN, ROW))
        plain, row = (elapsed(partial(fit, vae, train, valid, config, seed=0)) for vae in models)
        times.append((plain, row))
    torch.set_num_threads(num_threads)
    times = times[1:]  # the first round is a warm-up
    rounds = ", ".join(f"{plain:.2f} s / {row:.2f} s" for plain, row in times)
    conditions = (
        f"one epoch of {ROW} over one of {PLAIN}, {len(train)} training images in batches of {config.batch_size} and "
        f"{len(valid)} validation images, 1 thread, interleaved, median of {ROUNDS} ({PLAIN} / {ROW}: {rounds})"
    )
    return [entry("prior_row_over_plain", median(row / plain for plain, row in times), "ratio", conditions, digits=3)]
