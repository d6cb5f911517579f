"""Population statistics: what batch norm uses in evaluation, computed with the weights that are evaluated."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from flowvae.data.images import ImageSet
from flowvae.model.batch_norm import Moments, PopulationStatistics
from flowvae.model.vae import VAE
from flowvae.randomness import generator
from flowvae.training.batches import draw_once_each
from flowvae.training.precision import Precision, autocast
from flowvae.training.workers import SingleWorker, Workers

MIN_BATCH_SIZE, MAX_BATCH_SIZE = 100, 500
MAX_BATCH_VALUES = MAX_BATCH_SIZE * 3 * 64 * 64  # pixels, for which the encoder needs memory


@torch.no_grad()
def recompute_statistics(
    vae: VAE,
    images: ImageSet,
    *,
    seed: int,
    precision: Precision = "float32",
    workers: Workers = SingleWorker(),  # noqa: B008
) -> None:
    """Set every population mean and variance in `vae` to its value over `images`, with the current weights.

    "Precise batch norm" (Wu & Johnson 2021, arXiv:2105.07576, section 3): forward passes in training mode, whose
    batches' moments are pooled exactly. There is one draw of z per image, the same at each call; the decoder is not
    needed. Batches are large (`population_batch_size`), so that normalisation by their moments is close to
    normalisation by those of the population.

    Args:
        vae: the model, on the device of the images. If it has no such statistics, nothing is done.
        images: the training set.
        seed: of the draws.
        precision: of the encoder, as in training.
        workers: share each batch.
    """
    layers = [module for module in vae.modules() if isinstance(module, PopulationStatistics)]
    if not layers:
        return
    dtype, draws = next(vae.parameters()).dtype, generator(images.device, seed, "population")
    batch_size = population_batch_size(images)
    of_prior = any(isinstance(module, PopulationStatistics) for module in vae.prior_flow.modules())
    vae.train()
    with record_moments(layers) as moments_by_layer:
        for x, noise in draw_once_each(images, batch_size, vae.latent_dim, dtype, draws, workers.share):
            with autocast(images.device, precision):
                posterior = vae.posterior(x)
            z, _ = posterior.rsample_and_log_prob(noise)
            if of_prior:
                vae.prior.log_prob(z)
    for layer, moments in zip(layers, moments_by_layer, strict=True):
        mean, variance = pool_moments(moments)
        layer.mean.copy_(mean)
        layer.variance.copy_(variance)


def pool_moments(batches: list[Moments]) -> tuple[Tensor, Tensor]:
    """Combine the moments of batches, in float64.

    Returns:
        Mean and variance over the rows of all batches, shape (features,) each.
    """
    count, mean, variance = (torch.stack(column).double() for column in zip(*batches, strict=True))
    weight = count / count.sum()  # (batches, 1)
    pooled = (weight * mean).sum(0)
    return pooled, (weight * (variance + (mean - pooled).square())).sum(0)


@contextmanager
def record_moments(layers: list[PopulationStatistics]) -> Iterator[list[list[Moments]]]:
    """A context that records, for each layer, the moments of every batch in a forward pass."""
    recorded: list[list[Moments]] = [[] for _ in layers]
    hooks = [
        layer.batch.register_forward_hook(append_output_to(moments))
        for layer, moments in zip(layers, recorded, strict=True)
    ]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def append_output_to(moments: list[Moments]) -> Callable[..., None]:
    """A forward hook that appends the output of a module to a list."""
    return lambda module, inputs, output: moments.append(output)


def population_batch_size(images: ImageSet) -> int:
    """Number of images in a batch; fewer if they are large, but enough for moments close to the population's."""
    return max(MIN_BATCH_SIZE, min(MAX_BATCH_SIZE, MAX_BATCH_VALUES // math.prod(images.image_shape)))
