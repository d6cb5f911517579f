"""Pictures of a model's latent space for the page: paths between a few test images, and a map of many."""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import torch
from torch import Tensor

from flowvae.config import ImageShape
from flowvae.interpolation import Space, interpolate
from flowvae.model.vae import VAE

STEPS = 13  # frames of a path
MOST_ENDS = 10  # images that paths join
PATH_PIXELS = 460_000  # of the frames of one variant, so that the page stays below 6 MB with FEW_VARIANTS
FEW_VARIANTS = 20
COLOR_COST = 2  # bytes of a pixel in colour, compared with a grey one
MAP_IMAGES = 500
MAP_COLUMNS = 25  # of the sheet of the map's images
THUMBNAIL = 32  # pixels of the longer side of these images, at most
CHUNK = 100  # images that are encoded at once


@dataclass(frozen=True)
class LatentMap:
    """Latents of images in two dimensions.

    Args:
        positions: on the first two principal axes, shape (N, 2).
        share: of the variance of all latents that lies on these axes.
    """

    positions: np.ndarray
    share: float


def num_ends(image_shape: ImageShape, num_variants: int) -> int:
    """How many images are joined by paths, each with each, so that the page stays small."""
    channels, height, width = image_shape
    budget = PATH_PIXELS * FEW_VARIANTS / max(num_variants, FEW_VARIANTS)
    cost = STEPS * height * width * (COLOR_COST if channels > 1 else 1)
    fitting = [count for count in range(2, MOST_ENDS + 1) if comb(count, 2) * cost <= budget]
    return max(fitting, default=2)


def different_images(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random images with as many labels as possible, in the order of their labels.

    Returns:
        Indices, shape (at most `count`).
    """
    order = torch.randperm(len(labels), generator=generator).tolist()
    first = {int(labels[i]): i for i in reversed(order)}  # the first image in the order with each label
    rest = [i for i in order if i not in first.values()]
    chosen = [*sorted(first.values(), key=order.index), *rest][:count]
    return torch.tensor(sorted(chosen, key=lambda i: int(labels[i])), dtype=torch.int64)


@torch.inference_mode()
def all_paths(vae: VAE, ends: Tensor, path: str, space: Space) -> Tensor:
    """Decoded paths between all pairs of images (0, 1), (0, 2), ...

    Args:
        vae: the model.
        ends: shape (n, C, H, W).
        path, space: of `interpolate`.

    Returns:
        Means of the likelihood, shape (n (n - 1) / 2, STEPS, C, H, W); 0 where they are not finite.
    """
    pairs = torch.tensor(list(combinations(range(len(ends)), 2)), device=ends.device).view(-1, 2)
    frames = interpolate(vae, ends[pairs[:, 0]], ends[pairs[:, 1]], STEPS, path, space)
    return frames.transpose(0, 1).nan_to_num(0.0)


def thumbnails(images: Tensor) -> Tensor:
    """Images whose longer side has at most THUMBNAIL pixels, shape (N, C, H, W)."""
    height, width = images.shape[2:]
    scale = THUMBNAIL / max(height, width)
    if scale >= 1:
        return images
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return torch.nn.functional.interpolate(images, size, mode="area")


@torch.inference_mode()
def latent_map(vae: VAE, images: Tensor) -> LatentMap:
    """Posterior means of images, mapped by the posterior's flow, on their first two principal axes."""
    codes = torch.cat([vae.posterior(part).push_loc().flatten(1) for part in images.split(CHUNK)])
    z = codes.to("cpu", torch.float64).nan_to_num(0.0, 0.0, 0.0)
    left, scales, _ = torch.linalg.svd(z - z.mean(dim=0), full_matrices=False)
    positions = torch.zeros(len(z), 2, dtype=torch.float64)
    kept = min(2, len(scales))
    positions[:, :kept] = left[:, :kept] * scales[:kept]
    strongest = positions.gather(0, positions.abs().argmax(dim=0, keepdim=True))
    positions *= torch.where(strongest < 0, -1.0, 1.0)  # the sign of an axis is arbitrary
    total = scales.square().sum().item()
    return LatentMap(positions.numpy(), scales[:kept].square().sum().item() / total if total else 0.0)
