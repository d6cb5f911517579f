"""A set of images from which batches are gathered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flowvae.config import MAX_PIXEL, ImageShape

ALL = slice(None)
FREEZE_CHUNK = 1000  # images drawn at a time: as floats they need four times their memory
Reading = Literal["bits", "dynamic", "levels"]


@dataclass(frozen=True)
class ImageSet:
    """Images as uint8, on the device that trains or, if they do not fit there, memory-mapped.

    Args:
        pixels: shape (N, C, H, W); bits (0, 1), or 8-bit values (0 to 255).
        reading: what the model sees. bits: x = pixels. dynamic: bits with P(1) = pixels / 255, drawn again at each use
            (Burda et al. 2016, arXiv:1509.00519, section 5). levels: x = pixels / 255.
        batch_device: device of the batches; None for that of the pixels.
    """

    pixels: Tensor
    reading: Reading
    batch_device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def device(self) -> torch.device:
        """Device of the batches and of the noise."""
        return self.pixels.device if self.batch_device is None else self.batch_device

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W)."""
        return shape_of_images(self.pixels.shape)

    def batch(self, indices: Tensor, dtype: torch.dtype, noise: torch.Generator, share: slice = ALL) -> Tensor:
        """Gather images as floating-point numbers.

        Args:
            indices: the images of the batch, shape (batch,).
            dtype: of the result.
            noise: generator on the batch device; used only by the dynamic reading, for the whole batch.
            share: part of the batch to return.

        Returns:
            Shape (share, C, H, W), values in [0, 1].
        """
        return self.read(self.gather(indices[share]), len(indices), dtype, noise, share)

    def gather(self, indices: Tensor) -> Tensor:
        """Gather pixels on the batch device, uint8, shape (n, C, H, W).

        Copies to another device use pinned memory, so they are asynchronous.
        """
        if self.pixels.device.type == self.device.type:
            return self.pixels[indices]
        rows = indices.cpu().numpy()
        pixels = torch.empty((len(rows), *self.image_shape), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        np.take(self.pixels.numpy(), rows, axis=0, out=pixels.numpy(), mode="clip")  # "raise" would copy twice
        return pixels.to(self.device, non_blocking=True)

    def read(self, pixels: Tensor, batch_size: int, dtype: torch.dtype, noise: torch.Generator, share: slice) -> Tensor:
        """Convert gathered pixels to what the model sees.

        Args:
            pixels: of this share, shape (share, C, H, W).
            batch_size: number of images in the whole batch.
            dtype, noise, share: as for `batch`.

        Returns:
            Shape (share, C, H, W), values in [0, 1], in the channels-last memory layout of the networks.
        """
        x = pixels.to(dtype, memory_format=torch.channels_last)
        if self.reading == "bits":
            return x
        x = x.div_(MAX_PIXEL)
        if self.reading == "levels":
            return x
        uniform = torch.rand((batch_size, *self.image_shape), dtype=dtype, device=x.device, generator=noise)[share]
        return (uniform < x).to(dtype, memory_format=torch.channels_last)

    def freeze(self, noise: torch.Generator) -> "ImageSet":
        """The same images with fixed values: one draw if the reading is dynamic, else the set itself."""
        if self.reading != "dynamic":
            return self
        bits = torch.empty_like(self.pixels)
        for grey, drawn in zip(self.pixels.split(FREEZE_CHUNK), bits.split(FREEZE_CHUNK), strict=True):
            mean = grey.to(self.device).to(torch.float32).div_(MAX_PIXEL)
            drawn.copy_(torch.bernoulli(mean, generator=noise))
        return ImageSet(bits, "bits", self.batch_device)


def shape_of_images(shape: Sequence[int]) -> ImageShape:
    """(C, H, W) of an array of shape (N, C, H, W)."""
    _, channels, height, width = shape
    return channels, height, width
