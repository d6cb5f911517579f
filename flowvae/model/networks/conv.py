"""Small and fast networks: a few convolutions, and fully connected layers between them and the latents."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from flowvae.config import LayerWidths, PositiveInt, StageChannels
from flowvae.model.networks.heads import VectorHead, bottom_shape, vector_decoder_head
from flowvae.model.networks.network import DecoderConfig, EncoderConfig


class ConvEncoderConfig(EncoderConfig):
    """Convolution and pooling layers, then fully connected layers.

    Attributes:
        channels: of each stage, which halves the image.
        hidden_features: widths of the fully connected layers.
        context_features: size of the context that flows see of the image.
    """

    name: Literal["conv"] = "conv"
    channels: StageChannels = (16, 32)
    hidden_features: LayerWidths = (256,)
    context_features: PositiveInt = 32


class ConvDecoderConfig(DecoderConfig):
    """Fully connected layers, then transposed convolutions: the encoder in reverse.

    Attributes:
        channels: of each stage, which doubles the image.
        hidden_features: widths of the fully connected layers.
    """

    name: Literal["conv"] = "conv"
    channels: StageChannels = (32, 16)
    hidden_features: LayerWidths = (256,)


class ConvEncoder(nn.Module):
    """Image -> (loc, scale, context) by convolution and pooling, then fully connected layers.

    A 5 x 5 convolution of stride 2, then, for each further entry of `channels`, average pooling by 2
    and a 3 x 3 convolution. Every convolution is followed by SiLU. So every entry halves the image once.

    Args:
        image_shape: (channels, height, width); height and width divisible by 2^len(channels).
        latent_shape: (D,), or the shape of a map, which is returned flat like a vector.
        context_features: size of the context for the flow; 0 for none.
        channels: output channels of each stage.
        hidden_features: widths of the fully connected layers.

    Raises:
        ValueError: height or width of the image is not divisible by 2^len(channels).
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
        for in_channels, out_channels in pairwise(channels):
            stages += [nn.AvgPool2d(2), nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.SiLU()]
        stem = nn.Conv2d(image_shape[0], channels[0], 5, stride=2, padding=2)
        self.convolutions = nn.Sequential(stem, nn.SiLU(), *stages)
        self.head = VectorHead(bottom, latent_shape, context_features, hidden_features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (batch, *image_shape) -> loc (batch, D), scale (batch, D) > 0, context (batch, context)."""
        return self.head(self.convolutions(x.to(memory_format=torch.channels_last)))


class ConvDecoder(nn.Module):
    """Latents -> parameters of the likelihood by fully connected layers, then transposed convolutions.

    Every entry of `channels` doubles the image once, by a transposed convolution of kernel 4 and
    stride 2. The last has kernel 6 and is computed in its sub-pixel form (3 x 3 convolution, then
    pixel shuffle). The two forms are equivalent (Shi et al. 2016, arXiv:1609.07009); with few output
    channels the sub-pixel form is faster.

    Args:
        image_shape: (channels, height, width); height and width divisible by 2^len(channels).
        latent_shape: (D,), or the shape of a map, which is passed in flat like a vector.
        initial_output: bias of the output at every pixel, shape (P,).
        channels: input channels of each transposed convolution, from the bottom up.
        hidden_features: widths of the fully connected layers.

    Raises:
        ValueError: height or width of the image is not divisible by 2^len(channels).
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
        self.head = vector_decoder_head(latent_shape, bottom_shape(image_shape, channels[::-1]), hidden_features)
        stages: list[nn.Module] = []
        for in_channels, out_channels in pairwise(channels):
            stages += [nn.SiLU(), nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)]
        to_image = nn.Conv2d(channels[-1], 4 * len(initial_output), 3, padding=1)
        with torch.no_grad():
            to_image.get_parameter("bias").copy_(initial_output.repeat_interleave(4))
        self.convolutions = nn.Sequential(*stages, nn.SiLU(), to_image, nn.PixelShuffle(2))

    def forward(self, z: Tensor) -> Tensor:
        """z (*sample_shape, batch, D) -> parameters (*sample_shape, batch, P, height, width)."""
        return self.convolutions(self.head(z.flatten(0, -2))).unflatten(0, z.shape[:-1])
