"""Scores of a trained VAE: -log p(x|z), KL, -ELBO, NLL, bits per dimension, active units."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from flowvae.config import Config, NonNegativeInt, PositiveInt
from flowvae.data.images import ImageSet
from flowvae.model.objectives import elbo, kl, log_mean_exp
from flowvae.model.vae import VAE, LogDensities
from flowvae.randomness import generator


class EvaluationConfig(Config):
    """How a trained model is scored on the test set."""

    num_elbo_samples: Annotated[int, Field(ge=2)]
    num_importance_samples: PositiveInt
    num_nll_images: Annotated[int, Field(ge=2)]
    chunk_size: PositiveInt
    num_figure_images: PositiveInt
    seed: NonNegativeInt


@dataclass(frozen=True)
class Estimate:
    """A mean over test images and its standard error."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on the test set; log densities in nats per image."""

    reconstruction: Estimate  # -log p(x|zK)
    kl: Estimate  # log q_K(zK|x) - log p(zK)
    negative_elbo: Estimate
    nll: Estimate  # -log p(x), by importance sampling
    active_units: int
    num_images: int
    num_nll_images: int


@torch.inference_mode()
def evaluate(vae: VAE, images: ImageSet, config: EvaluationConfig) -> Evaluation:
    """Score a model. The noise depends only on `config.seed`, so all models are compared on the same draws.

    -ELBO and its terms are means over all images and `num_elbo_samples` draws. NLL is the importance-weighted bound
    with `num_importance_samples` draws, arXiv:1509.00519, equation 8, with its sign changed. It needs one decoder pass
    per draw. Therefore only the gap -ELBO - NLL is measured, on `num_nll_images` randomly chosen images and with the
    same draws for both, and subtracted from the -ELBO of all images (`difference_estimate`).

    Args:
        vae: the model, on the device of the images.
        images: the test set, of N images.
        config: counts and seed.
    """
    vae.eval()
    images = images.freeze(generator(images.device, config.seed, "binarization"))
    negative_elbo, reconstruction, divergence, z_mean, z_variance = _elbo_pass(vae, images, config)
    subset = torch.randperm(len(images), generator=generator("cpu", config.seed, "subset"))
    subset = subset[: config.num_nll_images].sort().values.to(images.device)
    nll, subset_negative_elbo = _nll_pass(vae, images, subset, config)
    return Evaluation(
        reconstruction=mean_estimate(reconstruction),
        kl=mean_estimate(divergence),
        negative_elbo=mean_estimate(negative_elbo),
        nll=difference_estimate(negative_elbo.index_copy(0, subset, subset_negative_elbo), subset, nll),
        active_units=active_units(z_mean, z_variance, config.num_elbo_samples),
        num_images=len(images),
        num_nll_images=len(subset),
    )


def _elbo_pass(vae: VAE, images: ImageSet, config: EvaluationConfig) -> list[Tensor]:
    """Compute the terms of the -ELBO of every image, as means over draws.

    Returns:
        -ELBO, -log p(x|z) and KL in nats, shape (N,) each, and mean and variance of zK, shape (N, D) each.
    """
    rows = []
    num_samples = config.num_elbo_samples
    all_indices = torch.arange(len(images), device=images.device)
    for i, indices in enumerate(all_indices.split(max(1, config.chunk_size // num_samples))):
        noise = generator(indices.device, config.seed, "latent", i)
        densities = _log_densities(vae, images, indices, num_samples, noise)
        terms = (-elbo(densities), -densities.log_likelihood, kl(densities), densities.z)
        rows.append([term.mean(0) for term in terms] + [densities.z.var(0)])
    return [torch.cat(column) for column in zip(*rows, strict=True)]


def _nll_pass(vae: VAE, images: ImageSet, subset: Tensor, config: EvaluationConfig) -> tuple[Tensor, Tensor]:
    """Compute -log p(x) and, on the same draws, -ELBO of the n images of the subset, in nats, shape (n,) each."""
    num_samples, rows = config.num_importance_samples, []
    for i, indices in enumerate(subset.split(max(1, config.chunk_size // num_samples))):
        noise = generator(indices.device, config.seed, "importance", i)
        log_weights = log_importance_weights(vae, images, indices, num_samples, config.chunk_size, noise)
        rows.append((-log_mean_exp(log_weights), -log_weights.mean(0)))
    nll, negative_elbo = (torch.cat(column) for column in zip(*rows, strict=True))
    return nll, negative_elbo


def log_importance_weights(
    vae: VAE, images: ImageSet, indices: Tensor, num_samples: int, chunk_size: int, noise: torch.Generator
) -> Tensor:
    """Compute log p(x, z) - log q(z|x) at draws z of the posterior.

    Args:
        vae: the model, on the device of the images.
        images: the set that contains the images.
        indices: of the images, shape (batch,).
        num_samples: S, draws per image.
        chunk_size: maximum number of latents decoded at once; a larger batch is decoded at once nevertheless.
        noise: generator on the images' device.

    Returns:
        Log weights in nats, shape (num_samples, batch).
    """
    samples_at_once = max(1, chunk_size // len(indices))
    counts = (min(samples_at_once, num_samples - done) for done in range(0, num_samples, samples_at_once))
    return torch.cat([elbo(_log_densities(vae, images, indices, count, noise)) for count in counts])


def _log_densities(
    vae: VAE, images: ImageSet, indices: Tensor, num_samples: int, noise: torch.Generator
) -> LogDensities:
    """Log densities at num_samples draws per image, shape (num_samples, batch)."""
    dtype = next(vae.parameters()).dtype
    x = images.batch(indices, dtype, noise)
    shape = (num_samples, len(x), vae.latent_dim)
    return vae(x, torch.randn(shape, dtype=dtype, device=x.device, generator=noise))


def mean_estimate(values: Tensor) -> Estimate:
    """Mean and standard error of independent values, shape (N,)."""
    values = values.double()
    return Estimate(values.mean().item(), (values.std() / len(values) ** 0.5).item())


def difference_estimate(cheap: Tensor, subset: Tensor, exact: Tensor) -> Estimate:
    """Estimate the mean of an expensive quantity from a random subset and from a cheap approximation of it.

        mean(cheap over all N) - mean(cheap - exact over the n of the subset)

    The difference estimator of survey sampling (Cochran, Sampling Techniques, 1977, section 7.4). It is unbiased. The
    difference cheap - exact varies much less between images than cheap or exact, so the estimate is about as precise
    as one that measures all N. With n = N it is the plain mean.

    Args:
        cheap: the approximation, shape (N,).
        subset: indices of a simple random sample, shape (n,).
        exact: the expensive quantity on the subset, shape (n,).
    """
    cheap, exact = cheap.double(), exact.double()
    gap = cheap[subset] - exact
    variance = exact.var() / len(cheap) + gap.var() * (1 / len(gap) - 1 / len(cheap))
    return Estimate((cheap.mean() - gap.mean()).item(), variance.sqrt().item())


def bits_per_dim(nats: Estimate, image_shape: tuple[int, int, int]) -> Estimate:
    """Convert nats per image to bits per pixel and channel: divide by C H W ln 2."""
    nats_per_bit = math.prod(image_shape) * math.log(2)
    return Estimate(nats.value / nats_per_bit, nats.stderr / nats_per_bit)


def active_units(z_mean: Tensor, z_variance: Tensor, num_samples: int, threshold: float = 0.01) -> int:
    """Number of latent dimensions whose posterior mean varies with the image.

    Dimension d is active if Var_x(E_q[z_d]) > threshold (arXiv:1509.00519, section 5.2). E_q is estimated by a mean of
    num_samples draws. The noise of this mean adds to the variance over images; its expectation, the mean within-image
    variance over num_samples, is subtracted.

    Args:
        z_mean, z_variance: over the draws of each image, shape (N, D).
        num_samples: draws per image.
        threshold: lower limit on the variance of the posterior mean.
    """
    between = z_mean.var(0) - z_variance.mean(0) / num_samples
    return int((between > threshold).sum())
