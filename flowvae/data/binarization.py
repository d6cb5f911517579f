"""Grey values to bits."""

import torch
from torch import Tensor

from flowvae.data.images import MAX_GREY
from flowvae.randomness import generator


def static(grey: Tensor, seed: int, split: int) -> Tensor:
    """One Bernoulli draw per pixel with P(1) = grey / 255, fixed from then on.

    Salakhutdinov & Murray 2008, "On the quantitative analysis of deep belief networks", section 4.

    Args:
        grey: uint8, shape (N, C, H, W).
        seed: of the draw.
        split: number of the split, so that splits draw independently.

    Returns:
        bits as uint8, shape of grey.
    """
    noise = generator("cpu", seed, "binarization", split)
    return torch.bernoulli(grey.to(torch.float32).div_(MAX_GREY), generator=noise).to(torch.uint8)


def threshold(grey: Tensor) -> Tensor:
    """1 where grey is above half of 255, as uint8."""
    return (grey > MAX_GREY // 2).to(torch.uint8)


def binarize(grey: Tensor, binarization: str, seed: int, split: int) -> Tensor:
    """Apply a binarization by name; `dynamic` keeps the grey values, to be drawn at each use."""
    match binarization:
        case "static":
            return static(grey, seed, split)
        case "threshold":
            return threshold(grey)
        case "dynamic":
            return grey
    raise ValueError(f"expected static, threshold or dynamic, got {binarization}")
