"""Population statistics: what batch norm uses in evaluation, measured at the weights that are evaluated."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from flowvae.data.batches import one_draw_each
from flowvae.data.images import ImageSet
from flowvae.precision import Precision, autocast
from flowvae.randomness import generator
from flowvae.statistics import Moments, PopulationStatistics
from flowvae.vae import VAE
from flowvae.workers import Alone, Workers


@torch.no_grad()
def recompute_statistics(
    vae: VAE,
    images: ImageSet,
    *,
    seed: int,
    precision: Precision = "float32",
    workers: Workers = Alone(),  # noqa: B008
) -> None:
    """Set every population mean and variance in `vae` to that over `images`, at the weights as they are.

    "Precise batch norm" (Wu & Johnson 2021, arXiv:2105.07576, section 3): forward passes in training mode,
    whose batches' moments are pooled exactly. One draw of z per image, the same at each call; the decoder is
    not needed. Batches are large (`population_batch`), so that they normalise almost as the population will.

    Args:
        vae: the model, on the device of the images; without such statistics nothing happens.
        images: the training set.
        seed: of the draws.
        precision: of the encoder, as in training.
        workers: who shares each batch.
    """
    layers = [module for module in vae.modules() if isinstance(module, PopulationStatistics)]
    if not layers:
        return
    dtype, draws = next(vae.parameters()).dtype, generator(images.device, seed, "population")
    vae.train()
    with recording(layers) as seen:
        for x, noise in one_draw_each(images, population_batch(images), vae.latent_dim, dtype, draws, workers.share):
            with autocast(images.device, precision):
                posterior = vae.posterior(x)
            posterior.rsample_and_log_prob(noise)
    for layer, moments in zip(layers, seen, strict=True):
        mean, variance = pool(moments)
        layer.mean.copy_(mean)
        layer.variance.copy_(variance)


def pool(batches: list[Moments]) -> tuple[Tensor, Tensor]:
    """Mean and variance over the rows of all batches: within the batches and between them, in float64."""
    count, mean, variance = (torch.stack(column).double() for column in zip(*batches, strict=True))
    weight = count / count.sum()  # (batches, 1)
    pooled = (weight * mean).sum(0)
    return pooled, (weight * (variance + (mean - pooled).square())).sum(0)


@contextmanager
def recording(layers: list[PopulationStatistics]) -> Iterator[list[list[Moments]]]:
    """For each layer, the moments of every batch that it sees inside the context."""
    seen: list[list[Moments]] = [[] for _ in layers]
    hooks = [layer.batch.register_forward_hook(note(batches)) for layer, batches in zip(layers, seen, strict=True)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def note(batches: list[Moments]) -> Callable[..., None]:
    """A forward hook that keeps what a module returns."""
    return lambda module, inputs, moments: batches.append(moments)


def population_batch(images: ImageSet) -> int:
    """Images at once: fewer where they are large, but enough for moments like those of the population."""
    return max(FEWEST, min(POPULATION_BATCH, POPULATION_VALUES // math.prod(images.image_shape)))


FEWEST, POPULATION_BATCH = 100, 500
POPULATION_VALUES = POPULATION_BATCH * 3 * 64 * 64  # of pixels, for which the encoder needs memory
