"""Residual networks for larger images: width and depth are settings, and latents may be a map."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from flowvae.config import LayerWidths, PositiveInt, StageChannels
from flowvae.model.networks.heads import DECODER_HEADS, ENCODER_HEADS, bottom_shape
from flowvae.model.networks.network import DecoderConfig, EncoderConfig
from flowvae.model.networks.weight_norm import zero_layer


class ResidualEncoderConfig(EncoderConfig):
    """Stages of residual blocks, then fully connected layers, or a 1 x 1 convolution to a map.

    Attributes:
        channels: of each stage, which halves the image.
        num_blocks: residual blocks of each stage.
        hidden_features: widths of the fully connected layers.
        context_features: size of the context that flows see of the image.
    """

    name: Literal["residual"] = "residual"
    channels: StageChannels = (32, 64)
    num_blocks: PositiveInt = 1
    hidden_features: LayerWidths = (256,)
    context_features: PositiveInt = 32


class ResidualDecoderConfig(DecoderConfig):
    """Fully connected layers, or a convolution from a map, then stages of residual blocks.

    Attributes:
        channels: of each stage, which doubles the image.
        num_blocks: residual blocks of each stage.
        hidden_features: widths of the fully connected layers.
    """

    name: Literal["residual"] = "residual"
    channels: StageChannels = (64, 32)
    num_blocks: PositiveInt = 1
    hidden_features: LayerWidths = (256,)


class ResidualBlock(nn.Module):
    """x + gain conv(SiLU(conv(SiLU(x)))), with 3 x 3 convolutions.

    The pre-activation block of He et al. 2016, arXiv:1603.05027, figure 4e, without normalisation. Instead, the last
    convolution is initialised to zero, so that a stack of any depth is initialised as the identity, and the gain keeps
    deep stacks trainable (see `gain_for`).
    """

    def __init__(self, channels: int, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, channels, 3, padding=1)
        zero_layer(self.last)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, channels, height, width) -> same shape."""
        return x + self.gain * self.last(nn.functional.silu(self.first(nn.functional.silu(x))))


class ResidualEncoder(nn.Module):
    """Image -> (loc, scale, context) by stages of residual blocks.

    Each entry of `channels` is a stage: a convolution of stride 2 (5 x 5 in the first stage, then 3 x 3) and
    `num_blocks` residual blocks. So every stage halves the image once.

    Args:
        image_shape: (channels, height, width); height and width divisible by 2^len(channels).
        latent_shape: (D,), computed by fully connected layers, or (channels, height, width), computed by a 1 x 1
            convolution.
        context_features: size of the context for the flow; 0 for none.
        channels: channels of each stage.
        num_blocks: residual blocks of each stage.
        hidden_features: widths of the fully connected layers; with a map these compute only the context.

    Raises:
        ValueError: height or width of the image is not divisible by 2^len(channels), or a latent map does not have the
            height and width of the lowest stage.
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
        for in_channels, out_channels in pairwise(channels):
            stages += [
                nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1),
                *blocks(out_channels, num_blocks, gain),
            ]
        self.stages = nn.Sequential(*stages, nn.SiLU())
        self.head = ENCODER_HEADS[len(latent_shape)](bottom, latent_shape, context_features, hidden_features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (batch, *image_shape) in [0, 1] -> loc (batch, D), scale (batch, D) > 0, context (batch, context)."""
        centered = 2 * x.to(memory_format=torch.channels_last) - 1
        return self.head(self.stages(centered))


class ResidualDecoder(nn.Module):
    """Latents -> parameters of the likelihood by stages of residual blocks: the encoder in reverse.

    Each entry of `channels` is a stage: `num_blocks` residual blocks, then a 3 x 3 convolution and a pixel shuffle to
    twice the size (Shi et al. 2016, arXiv:1609.05158). A 1 x 1 convolution follows the last stage.

    Args:
        image_shape: (channels, height, width); height and width divisible by 2^len(channels).
        latent_shape: (D,), mapped by fully connected layers, or (channels, height, width), mapped by a 3 x 3
            convolution.
        initial_output: bias of the output at every pixel, shape (P,).
        channels: channels of each stage, from the bottom up.
        num_blocks: residual blocks of each stage.
        hidden_features: widths of the fully connected layers; not used with a map.

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
        self.head = DECODER_HEADS[len(latent_shape)](latent_shape, bottom, hidden_features)
        gain = gain_for(len(channels) * num_blocks)
        stages: list[nn.Module] = []
        for in_channels, out_channels in pairwise((*channels, last)):
            doubled = nn.Conv2d(in_channels, 4 * out_channels, 3, padding=1)
            stages += [*blocks(in_channels, num_blocks, gain), doubled, nn.PixelShuffle(2)]
        to_image = nn.Conv2d(last, len(initial_output), 1)
        with torch.no_grad():
            to_image.get_parameter("bias").copy_(initial_output)
        self.stages = nn.Sequential(*stages, nn.SiLU(), to_image)

    def forward(self, z: Tensor) -> Tensor:
        """z (*sample_shape, batch, D) -> parameters (*sample_shape, batch, P, height, width)."""
        return self.stages(self.head(z.flatten(0, -2))).unflatten(0, z.shape[:-1])


def blocks(channels: int, num_blocks: int, gain: float) -> list[nn.Module]:
    """The residual blocks of one stage."""
    return [ResidualBlock(channels, gain) for _ in range(num_blocks)]


def gain_for(num_blocks: int) -> float:
    """Factor on every residual branch of a network with `num_blocks` blocks, 1 / (4 sqrt(num_blocks)).

    Adam changes every weight by about the same amount at each step, so without this factor the change of all blocks
    together grows with their number and becomes too large.
    """
    return (16 * num_blocks) ** -0.5
