"""Scores of a trained VAE: -log p(x|z), KL, -ELBO, NLL, bits per dimension, active units."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from flowvae.config import Config, NonNegativeFloat, NonNegativeInt, PositiveInt
from flowvae.data.images import ImageSet
from flowvae.estimates import Estimate, ImageScores, mean_estimate, nll_estimate
from flowvae.model.objectives import elbo, log_mean_exp, loss_terms
from flowvae.model.vae import VAE
from flowvae.randomness import NormalDraws, generator

ACTIVE = 0.01  # variance of the posterior mean over images, above which a dimension is active


class EvaluationConfig(Config):
    """How a trained model is scored on the test set.

    Attributes:
        num_elbo_samples: draws per image for -ELBO and its terms.
        num_importance_samples: draws per image for NLL.
        num_nll_images: number of images on which the gap between -ELBO and NLL is measured.
        chunk_size: latents that are decoded at once.
        num_figure_images: of each kind in the figures of samples and reconstructions.
        temperatures: of samples in figures.
        seed: of all noise.
    """

    num_elbo_samples: Annotated[int, Field(ge=2)]
    num_importance_samples: PositiveInt
    num_nll_images: Annotated[int, Field(ge=2)]
    chunk_size: PositiveInt
    num_figure_images: PositiveInt
    temperatures: Annotated[tuple[NonNegativeFloat, ...], Field(strict=False, min_length=1)]
    seed: NonNegativeInt


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on the test set; log densities in nats per image."""

    reconstruction: Estimate  # -log p(x|zK)
    kl: Estimate  # log q_K(zK|x) - log p(zK)
    negative_elbo: Estimate
    nll: Estimate  # -log p(x), by importance sampling
    active_units: int
    images: ImageScores
    nll_by_draws: dict[int, float]  # mean over the images whose NLL was measured, by the number of draws

    @property
    def num_images(self) -> int:
        return len(self.images.negative_elbo)

    @property
    def num_nll_images(self) -> int:
        return len(self.images.subset)

    @property
    def median_effective_samples(self) -> float:
        """Of the draws behind NLL, over the images whose NLL was measured."""
        return float(np.median(self.images.effective_samples))


@torch.inference_mode()
def evaluate(vae: VAE, images: ImageSet, config: EvaluationConfig) -> Evaluation:
    """Score a model.

    The noise is a function of `config.seed`, image and draw alone (`NormalDraws`). So all models are compared on the
    same draws, and `config.chunk_size` changes no score but for rounding.

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
    scores, nll_by_draws = score_images(vae, images, config)
    return Evaluation(
        reconstruction=mean_estimate(scores.reconstruction),
        kl=mean_estimate(scores.kl),
        negative_elbo=mean_estimate(scores.negative_elbo),
        nll=nll_estimate(scores),
        active_units=active_units(*posterior_moments(vae, images, config)),
        images=scores,
        nll_by_draws=nll_by_draws,
    )


@torch.inference_mode()
def score_images(vae: VAE, images: ImageSet, config: EvaluationConfig) -> tuple[ImageScores, dict[int, float]]:
    """Compute the scores of each image, and the mean NLL by the number of draws (`nll_by_draws`).

    Arguments are as for `evaluate`, with values of the images that are fixed.
    """
    negative_elbo, reconstruction, divergence = _elbo_pass(vae, images, config)
    subset = torch.randperm(len(images), generator=generator("cpu", config.seed, "subset"))
    subset = subset[: config.num_nll_images].sort().values.to(images.device)
    counts = draw_counts(config.num_importance_samples)
    subset_negative_elbo, effective, *by_draws = _nll_pass(vae, images, subset, config, counts)
    columns = (negative_elbo, reconstruction, divergence, subset, by_draws[-1], subset_negative_elbo, effective)
    means = {count: values.double().mean().item() for count, values in zip(counts, by_draws, strict=True)}
    return ImageScores(*(column.cpu().numpy() for column in columns)), means


def _elbo_pass(vae: VAE, images: ImageSet, config: EvaluationConfig) -> list[Tensor]:
    """Compute -ELBO, -log p(x|z) and KL of every image, as means over draws, in nats, shape (N,) each."""
    draws, rows = NormalDraws(config.seed, "latent", vae.latent_dim), []
    for indices in all_indices(images).split(max(1, config.chunk_size // config.num_elbo_samples)):
        x = batch_of(images, indices, vae)
        densities = vae(x, draws(indices, range(config.num_elbo_samples), x.dtype))
        rows.append(loss_terms(densities))
    return list(torch.cat(rows, dim=1))


def _nll_pass(
    vae: VAE, images: ImageSet, subset: Tensor, config: EvaluationConfig, counts: Sequence[int]
) -> list[Tensor]:
    """Compute -ELBO and the effective sample size of the n images of the subset and, from the same draws, -log p(x).

    Returns:
        Two tensors of shape (n,), and one of -log p(x) for each of the counts.
    """
    num_samples, rows = config.num_importance_samples, []
    draws = NormalDraws(config.seed, "importance", vae.latent_dim)
    for indices in subset.split(max(1, config.chunk_size // num_samples)):
        log_weights = log_importance_weights(vae, images, indices, num_samples, config.chunk_size, draws)
        by_draws = [nll_from(log_weights, count) for count in counts]
        rows.append((-log_weights.mean(0), effective_sample_size(log_weights), *by_draws))
    return [torch.cat(column) for column in zip(*rows, strict=True)]


def draw_counts(num_samples: int) -> list[int]:
    """Numbers of draws for which NLL is computed: 1, 2, 5, 10, ... up to `num_samples`."""
    steps = [digit * 10**power for power in range(len(str(num_samples))) for digit in (1, 2, 5)]
    return [*(count for count in steps if count < num_samples), num_samples]


def nll_from(log_weights: Tensor, num_samples: int) -> Tensor:
    """-log p(x) from fewer draws, averaged over as many disjoint groups of them as there are, in nats.

    Args:
        log_weights: shape (S, batch).
        num_samples: draws per group, at most S.

    Returns:
        Shape (batch,).
    """
    num_groups = len(log_weights) // num_samples
    groups = log_weights[: num_groups * num_samples].unflatten(0, (num_groups, num_samples))
    return -log_mean_exp(groups.transpose(0, 1)).mean(0)


def log_importance_weights(
    vae: VAE, images: ImageSet, indices: Tensor, num_samples: int, chunk_size: int, draws: NormalDraws
) -> Tensor:
    """Compute log p(x, z) - log q(z|x) at draws z of the posterior.

    Args:
        vae: the model, on the device of the images.
        images: the set that contains the images.
        indices: of the images, shape (batch,).
        num_samples: S, draws per image.
        chunk_size: maximum number of latents decoded at once; a larger batch is decoded at once nevertheless.
        draws: the noise.

    Returns:
        Log weights in nats, shape (num_samples, batch).
    """
    x, rows = batch_of(images, indices, vae), []
    for numbers in split_range(num_samples, max(1, chunk_size // len(indices))):
        rows.append(elbo(vae(x, draws(indices, numbers, x.dtype))))
    return torch.cat(rows)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """Effective number of draws of an importance-weighted mean, (sum w)^2 / sum w^2 (Kong 1992).

    It is 1 if a single draw has all the weight: then the mean, and so NLL, is unreliable, and its bound loose.

    Args:
        log_weights: shape (S, batch).

    Returns:
        Shape (batch,), between 1 and S.
    """
    return torch.exp(2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0))


def posterior_moments(vae: VAE, images: ImageSet, config: EvaluationConfig) -> tuple[Tensor, Tensor, int]:
    """Estimate the mean and the variance of zK for every image from draws, which need no decoder.

    Returns:
        Mean and variance over the draws, shape (N, D) each, and the number of draws per image (`num_unit_samples`).
    """
    num_samples, rows = num_unit_samples(len(images)), []
    draws = NormalDraws(config.seed, "units", vae.latent_dim)
    for indices in all_indices(images).split(max(1, config.chunk_size // num_samples)):
        x = batch_of(images, indices, vae)
        z, _ = vae.posterior(x).rsample_and_log_prob(draws(indices, range(num_samples), x.dtype))
        rows.append((z.mean(0), z.var(0)))
    mean, variance = (torch.cat(column) for column in zip(*rows, strict=True))
    return mean, variance, num_samples


def num_unit_samples(num_images: int) -> int:
    """Draws per image for which a dimension that equals the prior is 5 standard errors from counting as active.

    The variance over N images of a mean of S draws with variance 1 is 1 / S, with a standard error of sqrt(2 / N) / S.
    """
    return max(2, math.ceil(5 / ACTIVE * math.sqrt(2 / num_images)))


def batch_of(images: ImageSet, indices: Tensor, vae: VAE) -> Tensor:
    """Images with fixed values, as a model sees them, shape (batch, C, H, W)."""
    return images.batch(indices, next(vae.parameters()).dtype, torch.Generator(images.device))


def all_indices(images: ImageSet) -> Tensor:
    """Positions of all images, shape (N,)."""
    return torch.arange(len(images), device=images.device)


def split_range(stop: int, size: int) -> list[range]:
    """0 to stop in ranges of `size` numbers, the last one of those that remain."""
    return [range(start, min(start + size, stop)) for start in range(0, stop, size)]


def bits_per_dim(nats: Estimate, image_shape: tuple[int, int, int]) -> Estimate:
    """Convert nats per image to bits per pixel and channel: divide by C H W ln 2."""
    nats_per_bit = math.prod(image_shape) * math.log(2)
    return Estimate(nats.value / nats_per_bit, nats.stderr / nats_per_bit)


def active_units(z_mean: Tensor, z_variance: Tensor, num_samples: int, threshold: float = ACTIVE) -> int:
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
