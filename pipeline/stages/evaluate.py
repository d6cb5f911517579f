"""evaluate: score one trained variant on the test set, and draw its samples and reconstructions."""

import time

import numpy as np
import torch
from torch import Tensor

from flowvae.config import EvaluationConfig
from flowvae.data.arrays import open_images
from flowvae.data.images import ImageSet
from flowvae.evaluation import evaluate
from flowvae.randomness import generator
from flowvae.vae import VAE
from flowvae.weights import load
from pipeline import paths
from pipeline.device import describe_device, keep_freed_memory, pick_device
from pipeline.files import read_json, write_json, write_png
from pipeline.grids import image_grid
from pipeline.params import Params, run_key
from pipeline.scores import flat_metrics
from pipeline.timings import record_timing

FIGURE_COLUMNS = 16


def run(params: Params, variant: str, seed: int) -> None:
    key, config = run_key(variant, seed), params.evaluation
    params.check_run(variant, seed)
    device = pick_device()
    keep_freed_memory()
    images = open_images(paths.PREPARED, "test", device)
    vae = load(paths.MODELS / key, device)
    trained = read_json(paths.MODELS / key / "training.json")
    started = time.monotonic()
    evaluation = evaluate(vae, images, config)
    seconds = time.monotonic() - started
    num_passes = len(images) * config.num_elbo_samples + evaluation.num_nll_images * config.num_importance_samples
    write_json(paths.METRICS / f"{key}.json", flat_metrics(evaluation, vae))
    counts = {"num_nll_images": evaluation.num_nll_images}
    write_json(paths.PROTOCOLS / f"{key}.json", trained | {"evaluation": config.model_dump() | counts})
    write_png(paths.FIGURES / "samples" / f"{key}.png", samples(vae, config.num_figure_images, config.seed))
    write_png(paths.FIGURES / "reconstructions" / f"{key}.png", reconstructions(vae, images, config))
    record_timing(
        "evaluate", key, seconds=seconds, images_per_second=num_passes / seconds, device=describe_device(device)
    )
    nll, bound = evaluation.nll, evaluation.negative_elbo
    print(
        f"{key}  -ELBO {bound.value:.2f} ± {bound.stderr:.2f}  NLL {nll.value:.2f} ± {nll.stderr:.2f}  {seconds:.0f} s"
    )


@torch.inference_mode()
def samples(vae: VAE, num_images: int, seed: int) -> np.ndarray:
    """P(pixel = 1) at draws from the prior, the same draws for every variant."""
    weight = next(vae.parameters())
    noise = generator(weight.device, seed, "prior")
    z = torch.randn(num_images, vae.latent_dim, dtype=weight.dtype, device=weight.device, generator=noise)
    return image_grid(rows_of(vae.likelihood(z).mean))


@torch.inference_mode()
def reconstructions(vae: VAE, images: ImageSet, config: EvaluationConfig) -> np.ndarray:
    """Test images, each row above its reconstruction from the pushed posterior mean."""
    device, dtype = images.pixels.device, next(vae.parameters()).dtype
    images = images.freeze(generator(device, config.seed, "binarization"))
    chosen = torch.randperm(len(images), generator=generator("cpu", config.seed, "pairs"))[: config.num_figure_images]
    x = images.batch(chosen.to(device), dtype, generator(device, config.seed, "binarization"))
    means = vae.likelihood(vae.posterior(x).push_loc()).mean
    pairs = torch.stack((rows_of(x), rows_of(means)), dim=1)  # (rows, 2, columns, C, H, W)
    return image_grid(pairs.flatten(0, 1))


def rows_of(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (rows, columns, C, H, W), the last row filled with blank images."""
    columns = min(FIGURE_COLUMNS, len(images))
    blank = images.new_zeros(-len(images) % columns, *images.shape[1:])
    return torch.cat((images, blank)).unflatten(0, (-1, columns))
