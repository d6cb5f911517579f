"""Figures of images that a trained model makes: samples, the training images nearest to them, and reconstructions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowvae.data.images import ImageSet
from flowvae.evaluation import EvaluationConfig
from flowvae.model.vae import VAE
from flowvae.nearest import nearest_images
from flowvae.pictures import as_ink, image_grid, rows_of, with_titles
from flowvae.randomness import generator
from flowvae.sampling import decode_noise

FIGURE_COLUMNS = 16
NUM_COMPARED = 200  # samples, and test images, whose distances to the nearest training image are compared


@dataclass(frozen=True)
class Galleries:
    """Figures of ink, shape (H, W), in colour (H, W, 3), and how near samples are to training images.

    Args:
        figures: by the name of their folder.
        nearest: root mean square difference over pixels, in [0, 1], between an image and the training image that is
            nearest to it; the medians of samples and of test images.
    """

    figures: dict[str, np.ndarray]
    nearest: dict[str, float]


@torch.inference_mode()
def draw_galleries(vae: VAE, train: ImageSet, test: ImageSet, config: EvaluationConfig) -> Galleries:
    """Draw all figures of a model, which is on the device of the images.

    Samples of all temperatures come from the same noise, and the noise is the same for every variant.
    """
    vae.eval()
    eight_bit, count = test.reading == "levels", config.num_figure_images
    x = some_images(test, max(count, NUM_COMPARED), config.seed, vae)
    noise = prior_noise(vae, max(count, NUM_COMPARED), config.seed)
    titled = {"test images": x[:count]}
    for kind, seed in (("means", None), ("draws", config.seed)):
        for temperature in config.temperatures:
            titled[f"{kind}, temperature {temperature:g}"] = decode(vae, temperature * noise[:count], config, seed)
    samples = decode(vae, noise, config, config.seed)
    near = nearest_images(samples, train)
    return Galleries(
        {
            "samples": titled_rows(titled, eight_bit, min(FIGURE_COLUMNS, max(map(len, titled.values())))),
            "nearest": pairs_of_rows(samples[:count], near.images[:count], eight_bit),
            "reconstructions": pairs_of_rows(x[:count], reconstructions(vae, x[:count]), eight_bit),
        },
        {
            "samples": near.distances.median().item(),
            "test_images": nearest_images(x, train).distances.median().item(),
        },
    )


def some_images(images: ImageSet, count: int, seed: int, vae: VAE) -> Tensor:
    """Random images of a set, at most `count`, shape (n, C, H, W)."""
    bits = generator(images.device, seed, "binarization")
    images = images.freeze(bits)
    chosen = torch.randperm(len(images), generator=generator("cpu", seed, "pairs"))[:count]
    return images.batch(chosen.to(images.device), next(vae.parameters()).dtype, bits)


def prior_noise(vae: VAE, count: int, seed: int) -> Tensor:
    """Standard-normal noise for samples, shape (count, D)."""
    weight = next(vae.parameters())
    drawn = generator(weight.device, seed, "prior")
    return torch.randn(count, vae.latent_dim, dtype=weight.dtype, device=weight.device, generator=drawn)


def decode(vae: VAE, noise: Tensor, config: EvaluationConfig, seed: int | None) -> Tensor:
    """Images at noise: expected ones, or draws of pixels with a seed."""
    drawn = None if seed is None else generator(noise.device, seed, "pixels")
    return decode_noise(vae, noise, config.chunk_size, drawn).images


def reconstructions(vae: VAE, x: Tensor) -> Tensor:
    """Means of the likelihood at the posterior means, mapped by the posterior's flow."""
    return vae.likelihood(vae.posterior(x).push_loc()).mean


def titled_rows(titled: Mapping[str, Tensor], eight_bit: bool, columns: int) -> np.ndarray:
    """Sets of images in rows of the same number of columns, each set below its title."""
    grids = []
    for title, images in titled.items():
        ink = as_ink(images, eight_bit=eight_bit)
        blank = ink.new_zeros(max(0, columns - len(ink)), *ink.shape[1:])
        grids.append(with_titles(image_grid(rows_of(torch.cat((ink, blank)), columns)), [title]))
    return np.concatenate(grids)


def pairs_of_rows(upper: Tensor, lower: Tensor, eight_bit: bool) -> np.ndarray:
    """Each row of one set of images above that of the other."""
    rows = [rows_of(as_ink(images, eight_bit=eight_bit), FIGURE_COLUMNS) for images in (upper, lower)]
    return image_grid(torch.stack(rows, dim=1).flatten(0, 1))
