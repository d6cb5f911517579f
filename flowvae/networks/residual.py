"""Residual networks, which scale with the image: width and depth are free, and latents may be a map."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from flowvae.config import Channels, Config, PositiveInt, Widths
from flowvae.networks.heads import HEADS, STARTS, bottom_shape


class ResidualEncoderConfig(Config):
    """Stages of residual blocks, then fully connected layers, or a 1 x 1 convolution to a map."""

    name: Literal["residual"]
    channels: Channels
    num_blocks: PositiveInt
    hidden_features: Widths
    context_features: PositiveInt


class ResidualDecoderConfig(Config):
    """Fully connected layers, or a convolution from a map, then stages of residual blocks."""

    name: Literal["residual"]
    channels: Channels
    num_blocks: PositiveInt
    hidden_features: Widths


class ResidualBlock(nn.Module):
    """x + gain conv(SiLU(conv(SiLU(x)))), 3 x 3 each.

    The pre-activation block of He et al. 2016, arXiv:1603.05027, figure 4e, without normalisation: its last
    convolution starts at zero, so that a stack of any depth starts as the identity, and the gain keeps it trainable
    (see `gain_for`).
    """

    def __init__(self, channels: int, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, channels, height, width) -> same shape."""
        return x + self.gain * self.last(nn.functional.silu(self.first(nn.functional.silu(x))))


class ResidualEncoder(nn.Module):
    """Image -> (loc, scale, context) by stages of residual blocks.

    For each entry of `channels` a convolution of stride 2 (5 x 5 on the image, then 3 x 3) and `num_blocks`
    residual blocks. So every entry halves the image once.

    Args:
        image_shape: (channels, height, width); height and width divisible by 2^len(channels).
        latent_shape: (D,), by fully connected layers, or (channels, height, width), by a 1 x 1 convolution.
        context_features: size of the context for the flow; 0 for none.
        channels: of each stage.
        num_blocks: residual blocks of each stage.
        hidden_features: widths of the fully connected layers; a map has such layers for the context alone.

    Raises:
        ValueError: the image does not halve len(channels) times, or a latent map has another size than the
            lowest stage.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_shape: Sequence[int],
        context_features: int,
        *,
        channels: Sequence[int],
        num_blocks: int,
        hidden_features: Sequence[int],
    ) -> None:
        super().__init__()
        bottom = bottom_shape(image_shape, channels)
        first, gain = channels[0], gain_for(len(channels) * num_blocks)
        stages = [nn.Conv2d(image_shape[0], first, 5, stride=2, padding=2), *blocks(first, num_blocks, gain)]
        for fan_in, fan_out in pairwise(channels):
            stages += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), *blocks(fan_out, num_blocks, gain)]
        self.stages = nn.Sequential(*stages, nn.SiLU())
        self.head = HEADS[len(latent_shape)](bottom, latent_shape, context_features, hidden_features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (batch, *image_shape) in [0, 1] -> loc (batch, D), scale (batch, D) > 0, context (batch, context)."""
        centred = 2 * x.to(memory_format=torch.channels_last) - 1
        return self.head(self.stages(centred))


class ResidualDecoder(nn.Module):
    """Latents -> parameters of the likelihood by stages of residual blocks; the mirror of the encoder.

    For each entry of `channels` `num_blocks` residual blocks, then a 3 x 3 convolution and pixel shuffle to
    twice the size (Shi et al. 2016, arXiv:1609.05158); last a 1 x 1 convolution.

    Args:
        image_shape: (channels, height, width); height and width divisible by 2^len(channels).
        latent_shape: (D,), by fully connected layers, or (channels, height, width), by a 3 x 3 convolution.
        initial_output: what the likelihood starts with at every pixel, shape (P,).
        channels: of each stage, from the bottom up.
        num_blocks: residual blocks of each stage.
        hidden_features: widths of the fully connected layers; a map has none.

    Raises:
        ValueError: as for the encoder.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_shape: Sequence[int],
        initial_output: Tensor,
        *,
        channels: Sequence[int],
        num_blocks: int,
        hidden_features: Sequence[int],
    ) -> None:
        super().__init__()
        bottom, last = bottom_shape(image_shape, channels[::-1]), channels[-1]
        self.head = STARTS[len(latent_shape)](latent_shape, bottom, hidden_features)
        gain = gain_for(len(channels) * num_blocks)
        stages: list[nn.Module] = []
        for fan_in, fan_out in pairwise((*channels, last)):
            doubled = nn.Conv2d(fan_in, 4 * fan_out, 3, padding=1)
            stages += [*blocks(fan_in, num_blocks, gain), doubled, nn.PixelShuffle(2)]
        to_image = nn.Conv2d(last, len(initial_output), 1)
        with torch.no_grad():
            to_image.bias.copy_(initial_output)
        self.stages = nn.Sequential(*stages, nn.SiLU(), to_image)

    def forward(self, z: Tensor) -> Tensor:
        """z (*sample_shape, batch, D) -> parameters (*sample_shape, batch, P, height, width)."""
        return self.stages(self.head(z.flatten(0, -2))).unflatten(0, z.shape[:-1])


def blocks(channels: int, count: int, gain: float) -> list[nn.Module]:
    """The residual blocks of one stage."""
    return [ResidualBlock(channels, gain) for _ in range(count)]


def gain_for(num_blocks: int) -> float:
    """The factor on every branch of a network of so many blocks, 1 / (4 sqrt(num_blocks)).

    Adam moves all weights by about as much at each step, and so all blocks together too far without it.
    """
    return (16 * num_blocks) ** -0.5
