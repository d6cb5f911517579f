"""The nearest image of a set: whether samples are copies of training images."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.config import MAX_PIXEL
from flowvae.data.images import ImageSet
from flowvae.model.transforms import full_precision

MAX_PIXELS = 2**24  # of the set, as floats at once


class Nearest(NamedTuple):
    """The nearest image of a set for each of M images.

    Attributes:
        images: values in [0, 1], shape (M, C, H, W).
        distances: root mean square difference over pixels and channels, shape (M,).
    """

    images: Tensor
    distances: Tensor


@torch.inference_mode()
def nearest_images(queries: Tensor, images: ImageSet) -> Nearest:
    """Find the nearest images in Euclidean distance, in one pass over the set.

    Args:
        queries: values in [0, 1], shape (M, C, H, W), on the device of the images.
        images: the set; of bits that are drawn again at each use, the grey values.
    """
    scale = 1 if images.reading == "bits" else MAX_PIXEL
    rows = queries.flatten(1)
    least = rows.new_full((len(rows),), math.inf)
    found = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    with full_precision(rows.device):
        for indices in torch.arange(len(images), device=rows.device).split(max(1, MAX_PIXELS // rows.shape[1])):
            pixels = images.gather(indices).flatten(1).to(rows.dtype).div_(scale)
            distances = pixels.square().sum(1) - 2 * rows @ pixels.T  # squared, without the part of the queries
            values, positions = distances.min(dim=1)
            found = torch.where(values < least, indices[positions], found)
            least = torch.minimum(values, least)
    nearest = images.gather(found).to(rows.dtype).div_(scale)
    return Nearest(nearest, (queries - nearest).flatten(1).square().mean(1).sqrt())
