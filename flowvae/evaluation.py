"""How good a trained VAE is: -log p(x|z), KL, -ELBO, NLL, bits per dimension, active units."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowvae.config import EvaluationConfig
from flowvae.data.images import ImageSet
from flowvae.objectives import elbo, kl, log_mean_exp
from flowvae.randomness import generator
from flowvae.vae import VAE, LogDensities


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
    """Score a model; the noise depends on `config.seed` alone, so models are compared on the same draws.

    -ELBO and its terms are means over all images and `num_elbo_samples` draws. NLL is the
    importance-weighted bound with `num_importance_samples` draws, arXiv:1509.00519, equation 8. It
    costs a decoder pass per draw, so only the gap -ELBO - NLL is measured on `num_nll_images`
    images drawn at random, both on the same draws, and taken off the -ELBO of all images
    (`difference_estimate`).

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
    nll, sharper = _nll_pass(vae, images, subset, config)
    return Evaluation(
        reconstruction=mean_estimate(reconstruction),
        kl=mean_estimate(divergence),
        negative_elbo=mean_estimate(negative_elbo),
        nll=difference_estimate(negative_elbo.index_copy(0, subset, sharper), subset, nll),
        active_units=active_units(z_mean, z_variance, config.num_elbo_samples),
        num_images=len(images),
        num_nll_images=len(subset),
    )


def _elbo_pass(vae: VAE, images: ImageSet, config: EvaluationConfig) -> list[Tensor]:
    """Per image: -ELBO, -log p(x|z), KL (N,), and mean and variance of zK over draws (N, D)."""
    rows = []
    num_samples = config.num_elbo_samples
    everything = torch.arange(len(images), device=images.device)
    for i, indices in enumerate(everything.split(max(1, config.chunk_size // num_samples))):
        log_densities = _draw(vae, images, indices, num_samples, generator(indices.device, config.seed, "latent", i))
        terms = (-elbo(log_densities), -log_densities.log_likelihood, kl(log_densities), log_densities.z)
        rows.append([term.mean(0) for term in terms] + [log_densities.z.var(0)])
    return [torch.cat(column) for column in zip(*rows, strict=True)]


def _nll_pass(vae: VAE, images: ImageSet, subset: Tensor, config: EvaluationConfig) -> tuple[Tensor, Tensor]:
    """Per image of the subset: -log p(x), and -ELBO on the same draws, in nats, shape (n,) each."""
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
    """log p(x, z) - log q(z|x) at draws z of the posterior, in nats, shape (num_samples, batch).

    Args:
        vae: the model, on the device of the images.
        images: where the images are.
        indices: which of them, shape (batch,).
        num_samples: S, draws per image.
        chunk_size: decoder passes at once, at least the batch.
        noise: generator on the images' device.
    """
    at_once = max(1, chunk_size // len(indices))
    counts = (min(at_once, num_samples - done) for done in range(0, num_samples, at_once))
    return torch.cat([elbo(_draw(vae, images, indices, count, noise)) for count in counts])


def _draw(vae: VAE, images: ImageSet, indices: Tensor, num_samples: int, noise: torch.Generator) -> LogDensities:
    """Log densities at num_samples draws per image."""
    dtype = next(vae.parameters()).dtype
    x = images.batch(indices, dtype, noise)
    shape = (num_samples, len(x), vae.latent_dim)
    return vae(x, torch.randn(shape, dtype=dtype, device=x.device, generator=noise))


def mean_estimate(values: Tensor) -> Estimate:
    """Mean and standard error of independent values, shape (N,)."""
    values = values.double()
    return Estimate(values.mean().item(), (values.std() / len(values) ** 0.5).item())


def difference_estimate(cheap: Tensor, subset: Tensor, exact: Tensor) -> Estimate:
    """Mean of an expensive quantity that is known on a random subset and close to a cheap one.

        mean(cheap over all N) - mean(cheap - exact over the n of the subset)

    The difference estimator of survey sampling (Cochran, Sampling Techniques, 1977, section 7.4):
    unbiased, and, since cheap - exact varies far less from image to image than either, about as
    precise as measuring all N. With n = N it is the plain mean.

    Args:
        cheap: shape (N,).
        subset: indices of a simple random sample, shape (n,).
        exact: the expensive quantity on the subset, shape (n,).
    """
    cheap, exact = cheap.double(), exact.double()
    gap = cheap[subset] - exact
    variance = exact.var() / len(cheap) + gap.var() * (1 / len(gap) - 1 / len(cheap))
    return Estimate((cheap.mean() - gap.mean()).item(), variance.sqrt().item())


def bits_per_dim(nats: Estimate, image_shape: tuple[int, int, int]) -> Estimate:
    """Nats per image as bits per pixel and channel: over C H W ln 2."""
    per_bit = math.prod(image_shape) * math.log(2)
    return Estimate(nats.value / per_bit, nats.stderr / per_bit)


def active_units(z_mean: Tensor, z_variance: Tensor, num_samples: int, threshold: float = 0.01) -> int:
    """Number of latent dimensions whose posterior mean varies with the image.

    Dimension d is active if Var_x(E_q[z_d]) > threshold (arXiv:1509.00519, section 5.2). E_q is a
    mean of num_samples draws, whose own noise, the mean within-image variance over num_samples,
    is subtracted.

    Args:
        z_mean, z_variance: over the draws of each image, shape (N, D).
        num_samples: draws per image.
        threshold: on the variance of the mean.
    """
    between = z_mean.var(0) - z_variance.mean(0) / num_samples
    return int((between > threshold).sum())
