"""A set of images on a device, from which batches are gathered."""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_GREY = 255
ALL = slice(None)


@dataclass(frozen=True)
class ImageSet:
    """Images as uint8 on the device that trains.

    Args:
        pixels: shape (N, C, H, W); bits (0, 1), or grey values (0 to 255) if `dynamic`.
        dynamic: draw bits with P(1) = grey / 255 afresh at each use
            (Burda et al. 2016, arXiv:1509.00519, section 5).
    """

    pixels: Tensor
    dynamic: bool

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.pixels.shape[1:])

    def batch(self, indices: Tensor, dtype: torch.dtype, noise: torch.Generator, share: slice = ALL) -> Tensor:
        """Gather images as bits in floating point.

        Args:
            indices: the images of the batch, shape (batch,).
            dtype: of the result.
            noise: generator on the images' device, drawn from only if `dynamic`, for the whole batch.
            share: the part of the batch that is wanted.

        Returns:
            shape (share, C, H, W), values in {0, 1}.
        """
        x = self.pixels[indices[share]].to(dtype)
        if not self.dynamic:
            return x
        uniform = torch.rand((len(indices), *self.image_shape), dtype=dtype, device=x.device, generator=noise)[share]
        return (uniform < x.div_(MAX_GREY)).to(dtype)

    def freeze(self, noise: torch.Generator) -> "ImageSet":
        """The same images as fixed bits: one draw if `dynamic`, else the set itself."""
        if not self.dynamic:
            return self
        grey = self.pixels.to(torch.float32).div_(MAX_GREY)
        return ImageSet(torch.bernoulli(grey, generator=noise).to(torch.uint8), dynamic=False)
