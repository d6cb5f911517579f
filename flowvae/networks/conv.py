"""A few convolutions, and fully connected layers between them and the latents: small and fast."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from flowvae.config import Channels, Config, PositiveInt, Widths
from flowvae.networks.heads import VectorHead, bottom_shape, vector_start


class ConvEncoderConfig(Config):
    """Convolution and pooling layers, then fully connected layers."""

    name: Literal["conv"]
    channels: Channels
    hidden_features: Widths
    context_features: PositiveInt


class ConvDecoderConfig(Config):
    """Fully connected layers, then transposed convolutions; the mirror of the encoder."""

    name: Literal["conv"]
    channels: Channels
    hidden_features: Widths


class ConvEncoder(nn.Module):
    """Image -> (loc, scale, context) by convolution and pooling, then fully connected layers.

    A 5 x 5 convolution of stride 2, then for each further entry of `channels` average pooling by 2
    and a 3 x 3 convolution, each with SiLU. So every entry halves the image once.

    Args:
        image_shape: (channels, height, width); height and width divisible by 2^len(channels).
        latent_shape: (D,), or a map, which comes out flat like any vector.
        context_features: size of the context for the flow; 0 for none.
        channels: output channels of each stage.
        hidden_features: widths of the fully connected layers.

    Raises:
        ValueError: the image does not halve len(channels) times.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_shape: Sequence[int],
        context_features: int,
        *,
        channels: Sequence[int],
        hidden_features: Sequence[int],
    ) -> None:
        super().__init__()
        bottom = bottom_shape(image_shape, channels)
        stages: list[nn.Module] = []
        for fan_in, fan_out in pairwise(channels):
            stages += [nn.AvgPool2d(2), nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.SiLU()]
        stem = nn.Conv2d(image_shape[0], channels[0], 5, stride=2, padding=2)
        self.convolutions = nn.Sequential(stem, nn.SiLU(), *stages)
        self.head = VectorHead(bottom, latent_shape, context_features, hidden_features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (batch, *image_shape) -> loc (batch, D), scale (batch, D) > 0, context (batch, context)."""
        return self.head(self.convolutions(x.to(memory_format=torch.channels_last)))


class ConvDecoder(nn.Module):
    """Latents -> parameters of the likelihood by fully connected layers, then transposed convolutions.

    Every entry of `channels` doubles the image once: kernel 4 and stride 2, but for the last, with
    kernel 6, which is computed in its sub-pixel form (3 x 3 convolution, then pixel shuffle). The
    two forms are one map (Shi et al. 2016, arXiv:1609.07009); for a few output channels this one
    is faster.

    Args:
        image_shape: (channels, height, width); height and width divisible by 2^len(channels).
        latent_shape: (D,), or a map, which is taken flat like any vector.
        initial_output: what the likelihood starts with at every pixel, shape (P,).
        channels: input channels of each transposed convolution, from the bottom up.
        hidden_features: widths of the fully connected layers.

    Raises:
        ValueError: the image does not halve len(channels) times.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_shape: Sequence[int],
        initial_output: Tensor,
        *,
        channels: Sequence[int],
        hidden_features: Sequence[int],
    ) -> None:
        super().__init__()
        self.head = vector_start(latent_shape, bottom_shape(image_shape, channels[::-1]), hidden_features)
        stages: list[nn.Module] = []
        for fan_in, fan_out in pairwise(channels):
            stages += [nn.SiLU(), nn.ConvTranspose2d(fan_in, fan_out, 4, stride=2, padding=1)]
        to_image = nn.Conv2d(channels[-1], 4 * len(initial_output), 3, padding=1)
        with torch.no_grad():
            to_image.bias.copy_(initial_output.repeat_interleave(4))
        self.convolutions = nn.Sequential(*stages, nn.SiLU(), to_image, nn.PixelShuffle(2))

    def forward(self, z: Tensor) -> Tensor:
        """z (*sample_shape, batch, D) -> parameters (*sample_shape, batch, P, height, width)."""
        return self.convolutions(self.head(z.flatten(0, -2))).unflatten(0, z.shape[:-1])
