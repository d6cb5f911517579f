"""How a latent vector is split into two blocks, one of which conditions the transform of the other in a coupling.

Real NVP: arXiv:1605.08803, sections 3.4 and 3.6.
"""

from typing import Protocol

import torch
from torch import Tensor

MapShape = tuple[int, int, int]  # channels, height, width
NetShape = tuple[int, int, tuple[int, int]]  # input channels, output channels, (height, width)


class Partition(Protocol):
    """A split of a latent vector into two blocks, numbered 0 and 1.

    Attributes:
        axis: axis of a block's features.
    """

    axis: int

    def split(self, z: Tensor) -> list[Tensor]:
        """Split z, shape (*sample_shape, batch, D), into the two blocks."""

    def join(self, blocks: list[Tensor]) -> Tensor:
        """Invert `split`."""

    def confine(self, raw: Tensor, moved: int) -> Tensor:
        """Set a net's output to 0 at positions outside block number `moved`; the shape is unchanged."""


class Halves:
    """The two blocks of a vector: its first elements and the rest.

    Args:
        sizes: of the two blocks.
    """

    axis = -1

    def __init__(self, sizes: tuple[int, int]) -> None:
        self.sizes = sizes

    def split(self, z: Tensor) -> list[Tensor]:
        return list(z.split(self.sizes, dim=-1))

    def join(self, blocks: list[Tensor]) -> Tensor:
        return torch.cat(blocks, dim=-1)

    def confine(self, raw: Tensor, moved: int) -> Tensor:
        return raw


class Checkerboard:
    """The two colours of a checkerboard, the same in each channel; a block is a map that is 0 on the other colour.

    Args:
        map_shape: (C, H, W).
        black: 1 where row + column is even, 0 elsewhere, shape (H / factor, W / factor).
        factor: of a squeeze before.
    """

    axis = -3

    def __init__(self, map_shape: MapShape, black: Tensor, factor: int = 1) -> None:
        self.map_shape, self.masks, self.factor = map_shape, (black, 1 - black), factor

    def net_shape(self, moved: int) -> NetShape:
        """Shapes of the net whose output moves block number `moved`."""
        channels, height, width = squeezed_shape(self.map_shape, self.factor)
        return channels, 2 * channels, (height, width)

    def split(self, z: Tensor) -> list[Tensor]:
        x = squeeze(z.unflatten(-1, self.map_shape), self.factor)
        return [x * mask for mask in self.masks]

    def join(self, blocks: list[Tensor]) -> Tensor:
        return unsqueeze(blocks[0] + blocks[1], self.factor).flatten(-3)

    def confine(self, raw: Tensor, moved: int) -> Tensor:
        return raw * self.masks[moved]


class ChannelSplit:
    """The first half of the channels and the rest, after a squeeze (space to depth, 2 x 2) where the map allows it.

    Args:
        map_shape: (C, H, W); squeezed if H / factor and W / factor are even.
        factor: of a squeeze before.
    """

    axis = -3

    def __init__(self, map_shape: MapShape, factor: int = 1) -> None:
        self.map_shape = map_shape
        _, height, width = squeezed_shape(map_shape, factor)
        self.factor = factor if height % 2 or width % 2 else 2 * factor
        num_channels, *size = squeezed_shape(map_shape, self.factor)
        self.size = (size[0], size[1])
        self.sizes = (num_channels // 2, num_channels - num_channels // 2)

    def net_shape(self, moved: int) -> NetShape:
        """Shapes of the net whose output moves block number `moved`."""
        return self.sizes[1 - moved], 2 * self.sizes[moved], self.size

    def split(self, z: Tensor) -> list[Tensor]:
        return list(squeeze(z.unflatten(-1, self.map_shape), self.factor).split(self.sizes, dim=-3))

    def join(self, blocks: list[Tensor]) -> Tensor:
        return unsqueeze(torch.cat(blocks, dim=-3), self.factor).flatten(-3)

    def confine(self, raw: Tensor, moved: int) -> Tensor:
        return raw


def squeezed_shape(map_shape: MapShape, factor: int) -> MapShape:
    """Shape of a map after `squeeze`."""
    channels, height, width = map_shape
    return channels * factor**2, height // factor, width // factor


def squeeze(x: Tensor, factor: int) -> Tensor:
    """Space to depth: (*leading, C, H, W) -> (*leading, C factor^2, H / factor, W / factor).

    The same map as `pixel_unshuffle`, which returns an empty batch with its shape unchanged (torch 2.14).
    """
    if factor == 1:
        return x
    *_, height, width = x.shape
    squares = x.unflatten(-1, (width // factor, factor)).unflatten(-3, (height // factor, factor))
    return squares.movedim((-3, -1), (-4, -3)).flatten(-5, -3)  # (..., C, h, i, w, j) -> (..., C, i, j, h, w)


def unsqueeze(x: Tensor, factor: int) -> Tensor:
    """Invert `squeeze`."""
    if factor == 1:
        return x
    squares = x.unflatten(-3, (x.shape[-3] // factor**2, factor, factor))
    return squares.movedim((-4, -3), (-3, -1)).flatten(-2).flatten(-3, -2)


def checkerboard(height: int, width: int) -> Tensor:
    """1 where row + column is even, 0 elsewhere, shape (height, width)."""
    parity = (torch.arange(height)[:, None] + torch.arange(width)) % 2
    return (parity == 0).to(torch.get_default_dtype())
