"""What fit() costs over a bare hand-written loop of the same model, and what a checkpoint costs.

Prediction: a generator per draw, a look at the loss and the sums of the curves are about 100 us of a
step of 11 to 25 ms, so at most 1.02. A checkpoint of 4 times the weights (15 to 18 MB) is hashed and
written in some 40 ms: 0.5% of an epoch of 7 s.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.bare_loop import bare_fit
from flowvae.checkpoint import CheckpointFolder, Interval
from flowvae.data.arrays import open_images
from flowvae.data.images import ImageSet
from flowvae.training import fit
from flowvae.training_state import TrainingState
from flowvae.vae import build_vae
from flowvae.workers import Alone
from pipeline.params import load_params

VARIANTS = ("vae", "real-nvp-5")
ROUNDS, NUM_TRAIN, NUM_VALID = 5, 20_000, 1_000


def measure() -> list[dict[str, object]]:
    """Interleaved, from the project's folder with `prepare` done."""
    params = load_params(Path("params.yaml"))
    config = params.training.model_copy(update={"epochs": 1, "min_steps": 0})
    train, valid = (open_images(Path("data/prepared"), split, torch.device("cpu")) for split in ("train", "valid"))
    epoch_images = len(train)
    train, valid = (
        ImageSet(images.pixels[:n].clone(), images.reading) for images, n in ((train, NUM_TRAIN), (valid, NUM_VALID))
    )
    results = []
    for variant in VARIANTS:
        model = params.vae_config(variant, train.image_shape)
        times = []
        for _ in range(ROUNDS + 1):
            bare, ours = build_vae(model, seed=0), build_vae(model, seed=0)
            times.append(
                (
                    seconds(lambda vae=bare: bare_fit(vae, train.pixels, valid.pixels, config)),
                    seconds(lambda vae=ours: fit(vae, train, valid, config, seed=0)),
                )
            )
        times = times[1:]  # the first warms up
        ratio = median(slow / fast for fast, slow in times)
        each = ", ".join(f"{fast:.2f} s / {slow:.2f} s" for fast, slow in times)
        conditions = (
            f"fit over a bare loop, {variant}, {NUM_TRAIN} images in batches of {config.batch_size} and {NUM_VALID} of "
            f"validation, {torch.get_num_threads()} threads, interleaved, median of {ROUNDS} (bare / fit: {each})"
        )
        name = "fit_over_bare_loop" if variant == "vae" else f"fit_over_bare_loop_{variant}"
        results.append({"name": name, "value": round(ratio, 3), "unit": "ratio", "conditions": conditions})
        epoch = median(slow for _, slow in times) * epoch_images / NUM_TRAIN
        results.append(checkpoint_cost(variant, ours, epoch))
    return results


def checkpoint_cost(variant: str, vae: torch.nn.Module, epoch: float) -> dict[str, object]:
    optimizer = torch.optim.AdamW(vae.parameters(), fused=True)
    for weight in vae.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    state = TrainingState(vae, optimizer, 0.0, Alone())
    state.best_weights = {name: value.clone() for name, value in vae.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = CheckpointFolder(Path(folder), Interval(1, "steps"), print)
        times = [seconds(lambda step=step: checkpoints.offer(step, state.capture)) for step in range(1, 12)]
        size = max(path.stat().st_size for path in Path(folder).iterdir())
    share = median(times) / epoch
    conditions = (
        f"one checkpoint of {variant} ({size / 1e6:.1f} MB, {1000 * median(times):.0f} ms, median of {len(times)}) "
        f"over an epoch of {epoch:.1f} s"
    )
    return {
        "name": f"checkpoint_over_epoch_{variant}",
        "value": round(share, 4),
        "unit": "ratio",
        "conditions": conditions,
    }


def seconds(call: object) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
