"""Missing pixels, filled in by sampling the posterior."""

from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.config import MAX_PIXEL
from flowvae.model.parts import evaluating
from flowvae.model.vae import VAE


class Imputed(NamedTuple):
    """Images without missing pixels, shape (N, C, H, W) each; where a pixel was observed, it has the given value.

    Attributes:
        draws: missing pixels are drawn from p(x|z), with the last latents z of the chain.
        means: missing pixels have their expected values under p(x|z), with the same latents.
    """

    draws: Tensor
    means: Tensor


@torch.inference_mode()
def impute(vae: VAE, x: Tensor, missing: Tensor, num_steps: int, generator: torch.Generator) -> Imputed:
    """Draw the missing pixels of images, approximately from p(x_missing | x_observed), by pseudo-Gibbs sampling.

    From random values of the missing pixels, each step draws

        z ~ q(z | x_observed, x_missing),  then  x_missing ~ p(x_missing | z)

    Rezende, Mohamed & Wierstra 2014, arXiv:1401.4082, appendix F. With the exact posterior in place of q this is Gibbs
    sampling, whose draws converge to those of the model; so a better posterior imputes better.

    Args:
        vae: the model, on the device of the images.
        x: images as the model sees them (`VAE.images`), shape (N, C, H, W). Values of missing pixels have no effect.
        missing: which pixels are missing, bool, shape (C, H, W) or (N, C, H, W).
        num_steps: length of the chain.
        generator: of all draws, on the device of the images.

    Raises:
        ValueError: there is no step, or a shape does not fit.
    """
    if num_steps < 1:
        raise ValueError(f"expected num_steps of at least 1, got {num_steps}")
    vae.with_channels(x)
    if missing.shape not in (x.shape, x.shape[1:]):
        raise ValueError(f"expected missing of shape {tuple(x.shape)} or {tuple(x.shape[1:])}, got {missing.shape}")
    with evaluating(vae):
        draws = torch.where(missing, random_pixels(x, generator, of_bits=vae.of_bits), x)
        for _ in range(num_steps):
            noise = torch.randn(len(x), vae.latent_dim, dtype=x.dtype, device=x.device, generator=generator)
            z, _ = vae.posterior(draws).rsample_and_log_prob(noise)
            likelihood = vae.likelihood(z)
            draws = torch.where(missing, likelihood.sample(generator), x)
        return Imputed(draws, torch.where(missing, likelihood.mean, x))


def random_pixels(like: Tensor, generator: torch.Generator, *, of_bits: bool) -> Tensor:
    """Uniformly random bits, or 8-bit values k / 255."""
    top = 1 if of_bits else MAX_PIXEL
    return torch.randint(top + 1, like.shape, device=like.device, generator=generator).to(like.dtype) / top
