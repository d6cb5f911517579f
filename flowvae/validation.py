"""The loss on held-out images, once an epoch."""

import math

import torch

from flowvae.data.batches import one_draw_each
from flowvae.data.images import ImageSet
from flowvae.objectives import loss_terms
from flowvae.precision import Precision, autocast
from flowvae.randomness import generator
from flowvae.vae import VAE
from flowvae.workers import Alone, Workers


@torch.inference_mode()
def validate(
    vae: VAE,
    images: ImageSet,
    *,
    seed: int,
    precision: Precision = "float32",
    workers: Workers = Alone(),  # noqa: B008
) -> list[float]:
    """Mean -ELBO, -log p(x|z) and KL in nats per image, one draw each; the same draws at each call."""
    vae.eval()
    draws = generator(images.device, seed, "latent")
    sums = torch.zeros(3, device=images.device, dtype=next(vae.parameters()).dtype)
    for x, noise in one_draw_each(images, validation_batch(images), vae.latent_dim, sums.dtype, draws, workers.share):
        with autocast(images.device, precision):
            sums += loss_terms(vae(x, noise)).sum(1)
    return (workers.sum(sums) / len(images)).tolist()


def validation_batch(images: ImageSet) -> int:
    """Images at once in validation: fewer where they are large, for the decoder's outputs take memory."""
    return max(1, min(VALIDATION_BATCH, VALIDATION_VALUES // math.prod(images.image_shape)))


VALIDATION_BATCH = 500
VALIDATION_VALUES = VALIDATION_BATCH * 32 * 32
