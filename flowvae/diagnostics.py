"""What a trained model does with its latents: where the KL term comes from, and whether its prior can be sampled."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowvae.data.images import ImageSet
from flowvae.evaluation import EvaluationConfig, all_indices, batch_of
from flowvae.model.distributions import Prior, TransformedDistribution
from flowvae.model.transforms import Transform
from flowvae.model.vae import VAE
from flowvae.randomness import NormalDraws, generator

NUM_ROUND_TRIPS = 1000  # draws from the prior that are mapped back to noise
LARGE_ERROR = 0.1  # of a round trip, in standard deviations of the noise


@dataclass(frozen=True)
class RoundTrip:
    """How far the noise of a draw from the prior is from what its flow maps the draw back to.

    Args:
        median, worst: of the largest error over dimensions, in standard deviations of the noise; inf if not finite.
        lost: share of the draws with an error above LARGE_ERROR, or without a finite value.
    """

    median: float
    worst: float
    lost: float


@dataclass(frozen=True)
class Diagnostics:
    """All in nats, as means over images. KL = sum(kl_per_dim) - sum(posterior_ladj) - sum(prior_ladj).

    Args:
        kl_per_dim: E[log q_0(z_0) - log N(f(z))] of each dimension, where z_0 is the draw before the posterior's flow,
            and f the prior's flow. Without flows it is the KL divergence of the dimension.
        posterior_ladj, prior_ladj: log-determinants of each transformation.
        prior_gap: a lower bound on the KL divergence of the aggregated posterior from the prior (`gaussian_gap`).
        round_trip: of draws from a prior with a flow; None without one.
    """

    kl_per_dim: list[float]
    posterior_ladj: list[float]
    prior_ladj: list[float]
    prior_gap: float
    round_trip: RoundTrip | None


@torch.inference_mode()
def diagnose(vae: VAE, images: ImageSet, config: EvaluationConfig) -> Diagnostics:
    """Diagnose a model on the test set.

    There is one draw of z per image, whose noise is a function of seed and image alone.

    Args:
        vae: the model, on the device of the images.
        images: the test set.
        config: seed, and number of latents at once.
    """
    vae.eval()
    images = images.freeze(generator(images.device, config.seed, "binarization"))
    draws, columns, noise_of_z = NormalDraws(config.seed, "diagnostics", vae.latent_dim), [], []
    counts = [part.num_transforms if part else 1 for part in (vae.config.posterior, vae.config.prior)]
    prior = vae.prior
    for indices in all_indices(images).split(config.chunk_size):
        x = batch_of(images, indices, vae)
        posterior = vae.posterior(x)
        z0, log_base = base_draw(posterior, draws(indices, range(1), x.dtype)[0])
        z, posterior_ladj = through(posterior.transform, z0, counts[0])
        noise, prior_ladj = through(prior.transform, z, counts[1])
        columns.append(torch.cat((log_base - log_normal(noise), posterior_ladj, prior_ladj), dim=-1).double().sum(0))
        noise_of_z.append(noise)
    means = torch.stack(columns).sum(0) / len(images)
    kl_per_dim, of_posterior, of_prior = means.split((vae.latent_dim, posterior_ladj.shape[-1], prior_ladj.shape[-1]))
    return Diagnostics(
        kl_per_dim=kl_per_dim.tolist(),
        posterior_ladj=of_posterior.tolist(),
        prior_ladj=of_prior.tolist(),
        prior_gap=gaussian_gap(torch.cat(noise_of_z)),
        round_trip=round_trip(prior, config.seed) if counts[1] else None,
    )


def base_draw(posterior: TransformedDistribution, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw z_0, and compute log q_0 of each of its dimensions; shape of noise, (batch, D), both."""
    base = posterior.base
    return base.loc + base.scale * noise, log_normal(noise) - base.scale.log()


def log_normal(x: Tensor) -> Tensor:
    """log N(x; 0, 1) of each element without its constant, which cancels in differences."""
    return -0.5 * x.square()


def through(transform: Transform, z: Tensor, num_transforms: int) -> tuple[Tensor, Tensor]:
    """Map z, and compute the log-determinant of each transformation.

    Returns:
        f(z), shape (batch, D), and log-determinants, shape (batch, K); (batch, 1) if the transform cannot be divided.
    """
    ladjs: list[Tensor] = []
    for step in steps_of(transform, num_transforms):
        z, ladj = step.call_and_ladj(z)
        ladjs.append(ladj)
    return z, torch.stack(ladjs, dim=-1) if ladjs else z.new_empty(len(z), 0)


def steps_of(transform: Transform, num_transforms: int) -> Sequence[Transform]:
    """The transformations of a transform, or the whole if it cannot be divided."""
    try:
        return transform.steps(num_transforms)
    except NotImplementedError:
        return [transform]


def gaussian_gap(noise: Tensor) -> float:
    """KL divergence from N(0, I) of the normal distribution with the mean and the covariance of points, in nats.

        1/2 (tr S + m'm - D - ln det S)

    Of all distributions with these moments the normal one has the least divergence from N(0, I). A flow keeps
    divergences, so for points f(z), z ~ q(z|x) of random images, this is a lower bound on KL(E_x q(z|x) || p(z)): what
    draws from the prior miss. From N points it is too high by about D (D + 3) / (4 N).

    Args:
        noise: shape (N, D).
    """
    points = noise.double()
    covariance = torch.atleast_2d(points.T.cov())
    gap = covariance.trace() + points.mean(0).square().sum() - points.shape[1] - covariance.logdet()
    return 0.5 * gap.item()


def round_trip(prior: Prior, seed: int) -> RoundTrip:
    """Draw from a prior, and map the draws back to noise."""
    like = prior.like
    draws = generator(like.device, seed, "prior")
    noise = torch.randn(NUM_ROUND_TRIPS, *like.shape, dtype=like.dtype, device=like.device, generator=draws)
    errors = (prior.to_noise(prior.from_noise(noise)) - noise).abs().amax(-1)
    errors = torch.where(errors.isfinite(), errors, torch.inf)
    return RoundTrip(errors.median().item(), errors.max().item(), (errors > LARGE_ERROR).double().mean().item())
