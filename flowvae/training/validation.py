"""The loss on held-out images, once per epoch."""

import math

import torch

from flowvae.data.images import ImageSet
from flowvae.model.objectives import loss_terms
from flowvae.model.vae import VAE
from flowvae.randomness import generator
from flowvae.training.batches import draw_once_each
from flowvae.training.precision import Precision, autocast
from flowvae.training.workers import SingleWorker, Workers

MAX_BATCH_SIZE = 500
MAX_BATCH_VALUES = MAX_BATCH_SIZE * 32 * 32  # pixels, for which the outputs of the decoder need memory


@torch.inference_mode()
def validate(
    vae: VAE,
    images: ImageSet,
    *,
    seed: int,
    precision: Precision = "float32",
    workers: Workers = SingleWorker(),  # noqa: B008
) -> tuple[float, float, float]:
    """Compute the mean loss with one draw of z per image, the same draws at each call.

    Args:
        vae: the model, on the device of the images.
        images: validation images.
        seed: of the draws.
        precision: of the networks, as in training.
        workers: share each batch.

    Returns:
        -ELBO, -log p(x|z) and KL in nats per image.
    """
    vae.eval()
    draws = generator(images.device, seed, "latent")
    sums = torch.zeros(3, device=images.device, dtype=next(vae.parameters()).dtype)
    batch_size = validation_batch_size(images)
    for x, noise in draw_once_each(images, batch_size, vae.latent_dim, sums.dtype, draws, workers.share):
        with autocast(images.device, precision):
            sums += loss_terms(vae(x, noise)).sum(1)
    negative_elbo, reconstruction, kl = (workers.sum(sums) / len(images)).tolist()
    return negative_elbo, reconstruction, kl


def validation_batch_size(images: ImageSet) -> int:
    """Number of images in a batch; fewer if they are large."""
    return max(1, min(MAX_BATCH_SIZE, MAX_BATCH_VALUES // math.prod(images.image_shape)))
