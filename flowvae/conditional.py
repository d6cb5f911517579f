"""log p(x_missing | x_observed) = log p(x) - log p(x_observed) of a trained VAE."""

from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.annealing import Annealed, Point, anneal
from flowvae.data.images import ImageSet
from flowvae.model.transforms import full_precision
from flowvae.model.vae import VAE
from flowvae.randomness import generator

PRIOR_DRAWS = 2000  # behind the moments of the prior
DRAWS_PER_DIMENSION = 10  # below which only variances are used, not covariances
BATCH = 25  # images at once, of which the draws are a function
PILOT_IMAGES = 8


class Moments(NamedTuple):
    """Mean of a prior, shape (D,), and the Cholesky factor of its covariance, shape (D, D)."""

    loc: Tensor
    scale: Tensor


class ObservedPixels:
    """p(z) and p(x_o|z) of the observed pixels x_o of images, in coordinates v in which the prior has unit covariance.

        z = loc + scale v

    Given z, every likelihood is a product over positions, though the channels of one may depend on each other. So where
    whole positions are observed, p(x_o|z) needs the decoder's output at these alone.

    Args:
        vae: the model, on the device of the images.
        moments: of its prior.
        x: images as the model sees them, shape (batch, C, H, W); missing pixels have no effect.
        observed: positions, bool, shape (H, W).
    """

    def __init__(self, vae: VAE, moments: Moments, x: Tensor, observed: Tensor) -> None:
        self.vae, self.moments, self.positions = vae, moments, observed.flatten().nonzero().squeeze(1)
        self.x = self.pick(x)

    def pick(self, maps: Tensor) -> Tensor:
        """The observed positions as maps with one column: (..., H, W) -> (..., count, 1)."""
        return maps.flatten(-2)[..., self.positions, None]

    def to_latents(self, v: Tensor) -> Tensor:
        """z, shape of v."""
        return self.moments.loc + v @ self.moments.scale.T

    def from_latents(self, z: Tensor) -> Tensor:
        """v, shape of z."""
        rows = (z - self.moments.loc).flatten(0, -2).T
        return torch.linalg.solve_triangular(self.moments.scale, rows, upper=False).T.view_as(z)

    def __call__(self, v: Tensor) -> Point:
        """Evaluate at coordinates of latents, shape (particles, batch, D); what is not finite counts as impossible."""
        v = v.detach().requires_grad_()
        with torch.enable_grad(), full_precision(v.device):
            z = self.to_latents(v)
            log_prior = self.vae.prior.log_prob(z) + self.moments.scale.diagonal().log().sum()
            (prior_gradient,) = torch.autograd.grad(log_prior.sum(), v, retain_graph=True)
            output = self.vae.decoder(z).to(z.dtype)
            log_likelihood = self.vae.output_to_likelihood(self.pick(output)).log_prob(self.x)
            (likelihood_gradient,) = torch.autograd.grad(log_likelihood.sum(), v)
        log_prior, log_likelihood = (part.detach().nan_to_num(-torch.inf) for part in (log_prior, log_likelihood))
        return Point(v.detach(), log_prior, log_likelihood, prior_gradient, likelihood_gradient)


class ConditionalScores(NamedTuple):
    """Estimates for observed pixels of images, on the CPU.

    Attributes:
        log_prob_observed: log p(x_o) in nats, shape (N,).
        effective: number of the particles where it was smallest, shape (N,).
    """

    log_prob_observed: Tensor
    effective: Tensor


def log_prob_observed(
    vae: VAE, x: Tensor, observed: Tensor, pilot: Tensor, num_particles: int, num_temperatures: int, seed: int
) -> ConditionalScores:
    """Estimate log p(x_o) of observed pixels by sequential Monte Carlo (`anneal`) in the space of the latents.

    The estimate is too low, in expectation: it is the logarithm of an unbiased one, for step sizes that come from the
    pilot images. log p(x) by importance sampling is too low as well. So in log p(x) - log p(x_o), an estimate of
    log p(x_m|x_o), the two errors have opposite signs: what log p(x_o) lacks makes NLL of the missing pixels too low,
    and what log p(x) lacks makes it too high.

    Importance sampling from q(z|x_o, x_m) at imputed x_m would do worse. p(z|x_o) is much wider than each of these
    posteriors, so that even a mixture of hundreds covers little of it, and flows without an inverse have no density at
    the draws of other components. This needs no posterior.

    Args:
        vae: the model in evaluation mode, on the device of the images.
        x: images as the model sees them, shape (N, C, H, W).
        observed: positions, bool, shape (H, W).
        pilot: other images, shape (M, C, H, W).
        num_particles: per image.
        num_temperatures: of the sampler.
        seed: of all draws, which are the same for every model with latents of this size.
    """
    device = x.device
    moments = prior_moments(vae, generator(device, seed, "prior", 1))

    def run(images: Tensor, number: int, step_sizes: list[float] | None) -> Annealed:
        target = ObservedPixels(vae, moments, images, observed)
        draws = generator(device, seed, "importance", 1, number)
        noise = torch.randn(
            num_particles, len(images), vae.latent_dim, dtype=images.dtype, device=device, generator=draws
        )
        with torch.no_grad():
            start = target.from_latents(vae.prior.from_noise(noise))
        return anneal(target, start, num_temperatures, draws, step_sizes)

    sizes = run(pilot, 0, None).step_sizes
    found = [run(images, number, sizes) for number, images in enumerate(x.split(BATCH), start=1)]
    return ConditionalScores(
        torch.cat([each.log_integral for each in found]).cpu(), torch.cat([each.effective for each in found]).cpu()
    )


@torch.no_grad()
def prior_moments(vae: VAE, draws: torch.Generator) -> Moments:
    """Estimate mean and covariance of a prior from draws; without covariances if the draws are too few for them."""
    like = next(vae.parameters())
    noise = torch.randn(PRIOR_DRAWS, vae.latent_dim, dtype=like.dtype, device=like.device, generator=draws)
    z = vae.prior.from_noise(noise)
    z = z[z.isfinite().all(dim=1)].double()
    covariance = torch.atleast_2d(z.T.cov())
    if len(z) < DRAWS_PER_DIMENSION * vae.latent_dim:
        covariance = covariance.diagonal().diag()
    return Moments(z.mean(0).to(like.dtype), torch.linalg.cholesky(covariance).to(like.dtype))


def upper_half(height: int, width: int, device: torch.device) -> Tensor:
    """Which positions are observed if the lower half is missing, bool, shape (H, W); of an odd height, one row less."""
    observed = torch.zeros(height, width, dtype=torch.bool, device=device)
    observed[: (height + 1) // 2] = True
    return observed


def pilot_images(train: ImageSet, vae: VAE, seed: int) -> Tensor:
    """Training images on which step sizes are found, shape (M, C, H, W)."""
    order = torch.randperm(len(train), generator=generator("cpu", seed, "subset", 1))[:PILOT_IMAGES]
    draws = generator(train.device, seed, "binarization", 1)
    return train.batch(order.to(train.device), next(vae.parameters()).dtype, draws)
