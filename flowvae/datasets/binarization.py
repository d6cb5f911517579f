"""Binarization: how grey values become bits."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from flowvae.config import MAX_PIXEL
from flowvae.randomness import generator


def static(grey: Iterable[Tensor], seed: int, split: int) -> Iterator[Tensor]:
    """Draw each pixel once from a Bernoulli distribution with P(1) = grey / 255; the bits are fixed afterwards.

    Salakhutdinov & Murray 2008, "On the quantitative analysis of deep belief networks", section 4.

    Args:
        grey: the images of a split in chunks, uint8, shape (n, C, H, W) each. The bits do not depend on the size of
            the chunks.
        seed: of the draw.
        split: number of the split; splits are drawn independently.

    Returns:
        Bits as uint8, in chunks of the same shapes.
    """
    noise = generator("cpu", seed, "binarization", split)
    for chunk in grey:
        yield torch.bernoulli(chunk.to(torch.float32).div_(MAX_PIXEL), generator=noise).to(torch.uint8)


def threshold(grey: Iterable[Tensor], seed: int, split: int) -> Iterator[Tensor]:
    """Replace grey values above half of 255 by 1 and all others by 0, as uint8; the arguments are those of `static`."""
    return ((chunk > MAX_PIXEL // 2).to(torch.uint8) for chunk in grey)


def unchanged(grey: Iterable[Tensor], seed: int, split: int) -> Iterator[Tensor]:
    """Keep the 8-bit values, which are either levels or means of draws at each use."""
    return iter(grey)


BINARIZATIONS = {"static": static, "threshold": threshold, "dynamic": unchanged, "none": unchanged}


def binarize(grey: Iterable[Tensor], binarization: str, seed: int, split: int) -> Iterator[Tensor]:
    """Apply an entry of BINARIZATIONS; the other arguments are those of `static`.

    Raises:
        ValueError: there is no such entry.
    """
    if binarization not in BINARIZATIONS:
        raise ValueError(f"expected one of {', '.join(BINARIZATIONS)}, got {binarization}")
    return BINARIZATIONS[binarization](grey, seed, split)
