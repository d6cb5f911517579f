"""A set of images, from which batches are gathered."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

MAX_GREY = 255
ALL = slice(None)
FROZEN_AT_ONCE = 1000  # images drawn: as floats they take four times their memory
Reading = Literal["bits", "dynamic", "levels"]


@dataclass(frozen=True)
class ImageSet:
    """Images as uint8, on the device that trains or, where they are too many for it, memory-mapped.

    Args:
        pixels: shape (N, C, H, W); bits (0, 1), or 8-bit values (0 to 255).
        reading: what the model sees of them. bits: x = pixels. dynamic: bits drawn with P(1) = pixels / 255 afresh at
            each use (Burda et al. 2016, arXiv:1509.00519, section 5). levels: x = pixels / 255.
        home: the device that batches come to; None: that of the pixels.
    """

    pixels: Tensor
    reading: Reading
    home: torch.device | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def device(self) -> torch.device:
        """Where batches come to, and noise is drawn."""
        return self.pixels.device if self.home is None else self.home

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.pixels.shape[1:])

    def batch(self, indices: Tensor, dtype: torch.dtype, noise: torch.Generator, share: slice = ALL) -> Tensor:
        """Gather images as floating point.

        Args:
            indices: the images of the batch, shape (batch,).
            dtype: of the result.
            noise: generator on the device of batches, drawn from only if the reading is dynamic, for the whole batch.
            share: the part of the batch that is wanted.

        Returns:
            shape (share, C, H, W), values in [0, 1].
        """
        return self.read(self.gather(indices[share]), len(indices), dtype, noise, share)

    def gather(self, indices: Tensor) -> Tensor:
        """The pixels of some images on the device of batches, uint8, shape (n, C, H, W).

        To another device they go through pinned memory, so that nobody waits for the copy.
        """
        if self.pixels.device.type == self.device.type:
            return self.pixels[indices]
        indices = indices.cpu().numpy()
        pixels = torch.empty(
            (len(indices), *self.image_shape), dtype=torch.uint8, pin_memory=self.device.type == "cuda"
        )
        np.take(self.pixels.numpy(), indices, axis=0, out=pixels.numpy(), mode="clip")  # "raise" would copy twice
        return pixels.to(self.device, non_blocking=True)

    def read(self, pixels: Tensor, batch_size: int, dtype: torch.dtype, noise: torch.Generator, share: slice) -> Tensor:
        """What the model sees of pixels that were gathered.

        Args:
            pixels: of this share, shape (share, C, H, W).
            batch_size: images of the whole batch.
            dtype, noise, share: as for `batch`.

        Returns:
            shape (share, C, H, W), values in [0, 1].
        """
        x = pixels.to(dtype)
        if self.reading == "bits":
            return x
        x = x.div_(MAX_GREY)
        if self.reading == "levels":
            return x
        uniform = torch.rand((batch_size, *self.image_shape), dtype=dtype, device=x.device, generator=noise)[share]
        return (uniform < x).to(dtype)

    def freeze(self, noise: torch.Generator) -> "ImageSet":
        """The same images as fixed values: one draw if the reading is dynamic, else the set itself."""
        if self.reading != "dynamic":
            return self
        bits = torch.empty_like(self.pixels)
        for grey, drawn in zip(self.pixels.split(FROZEN_AT_ONCE), bits.split(FROZEN_AT_ONCE), strict=True):
            mean = grey.to(self.device).to(torch.float32).div_(MAX_GREY)
            drawn.copy_(torch.bernoulli(mean, generator=noise))
        return ImageSet(bits, "bits", self.home)
