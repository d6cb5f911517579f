"""Images from the noise that a prior maps to latents."""

from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.model.vae import VAE

GREY = 0.5  # of an image that cannot be drawn


class Samples(NamedTuple):
    """Images, and which of them could not be drawn.

    Attributes:
        images: values in [0, 1], shape (N, C, H, W); GREY where the prior's flow could not be inverted.
        lost: which these are, bool, shape (N,).
    """

    images: Tensor
    lost: Tensor


@torch.inference_mode()
def decode_noise(vae: VAE, noise: Tensor, chunk: int, generator: torch.Generator | None = None) -> Samples:
    """Draw images from p(x|z), at the z that the prior makes of noise.

    Args:
        vae: the model, on the device of the noise.
        noise: shape (N, D), standard normal for samples of the model.
        chunk: number of latents decoded at once.
        generator: of the draws of pixels; None for the expected images instead.
    """
    images, losses = [], []
    for part in noise.split(chunk):
        z = vae.prior.from_noise(part)
        lost = ~vae.likelihood(z).mean.flatten(1).isfinite().all(dim=1)
        likelihood = vae.likelihood(torch.where(lost[:, None], 0, z))
        some = likelihood.mean if generator is None else likelihood.sample(generator)
        images.append(torch.where(lost[:, None, None, None], GREY, some))
        losses.append(lost)
    return Samples(torch.cat(images), torch.cat(losses))
