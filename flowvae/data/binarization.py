"""Grey values to bits."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from flowvae.data.images import MAX_GREY
from flowvae.randomness import generator


def static(grey: Iterable[Tensor], seed: int, split: int) -> Iterator[Tensor]:
    """One Bernoulli draw per pixel with P(1) = grey / 255, fixed from then on.

    Salakhutdinov & Murray 2008, "On the quantitative analysis of deep belief networks", section 4.

    Args:
        grey: the images of a split in chunks, uint8, shape (n, C, H, W) each; where they are cut changes no bit.
        seed: of the draw.
        split: number of the split, so that splits draw independently.

    Returns:
        bits as uint8, shapes of grey.
    """
    noise = generator("cpu", seed, "binarization", split)
    for chunk in grey:
        yield torch.bernoulli(chunk.to(torch.float32).div_(MAX_GREY), generator=noise).to(torch.uint8)


def threshold(grey: Iterable[Tensor], seed: int, split: int) -> Iterator[Tensor]:
    """1 where grey is above half of 255, as uint8."""
    return ((chunk > MAX_GREY // 2).to(torch.uint8) for chunk in grey)


def unchanged(grey: Iterable[Tensor], seed: int, split: int) -> Iterator[Tensor]:
    """The 8-bit values, as levels or to be drawn from at each use."""
    return iter(grey)


BINARIZATIONS = {"static": static, "threshold": threshold, "dynamic": unchanged, "none": unchanged}


def binarize(grey: Iterable[Tensor], binarization: str, seed: int, split: int) -> Iterator[Tensor]:
    """Apply an entry of BINARIZATIONS; the arguments are those of `static`."""
    if binarization not in BINARIZATIONS:
        raise ValueError(f"expected one of {', '.join(BINARIZATIONS)}, got {binarization}")
    return BINARIZATIONS[binarization](grey, seed, split)
