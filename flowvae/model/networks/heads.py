"""Layers between the lowest stage of the convolutions and the latents, which are a vector or a map.

Maps are in channels-last memory layout. `nn.Flatten` and `nn.Unflatten` would change it: they copy, and the gradient of
a SiLU beside them has another layout than its input, which takes several times as long. `MapToVector` and `VectorToMap`
keep the layout, and their weights are contiguous, because the fused AdamW copies other gradients of weights.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from flowvae.model.networks.mlp import fully_connected

SOFTPLUS_INV_ONE = 0.5413248546129181  # log(e - 1)
MIN_SCALE = 1e-5


def bottom_shape(image_shape: tuple[int, int, int], channels: Sequence[int]) -> tuple[int, int, int]:
    """Shape (channels, height, width) of the lowest stage: the image is halved once per entry of channels.

    Raises:
        ValueError: height or width is not divisible by 2^len(channels).
    """
    _, height, width = image_shape
    factor = 2 ** len(channels)
    if height % factor or width % factor:
        raise ValueError(
            f"expected height and width divisible by {factor} for {len(channels)} stages of channels, "
            f"got {height} x {width}"
        )
    return channels[-1], height // factor, width // factor


def check_map(latent_shape: Sequence[int], bottom: tuple[int, int, int]) -> None:
    """Raise ValueError unless a latent map has the height and width of the lowest stage."""
    if tuple(latent_shape[1:]) != bottom[1:]:
        expected, got = (" x ".join(map(str, size)) for size in (bottom[1:], latent_shape[1:]))
        raise ValueError(f"expected a latent map of {expected}, the size of the lowest stage of channels, got {got}")


class MapToVector(nn.Module):
    """A linear layer from a map to a vector, whose weight is in the order of channels-last layout.

    Args:
        shape: (channels, height, width) of the map.
        out_features: size of the vector.
    """

    def __init__(self, shape: tuple[int, int, int], out_features: int) -> None:
        super().__init__()
        layer = nn.Linear(prod(shape), out_features)
        weight = layer.weight.detach().view(out_features, shape[0], -1)
        self.weight = nn.Parameter(weight.movedim(1, -1).contiguous())  # (out, height width, channels)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, *shape) -> (batch, out_features)."""
        return linear(x.movedim(1, -1).flatten(1), self.weight.flatten(1), self.bias)


class VectorToMap(nn.Module):
    """A linear layer from a vector to a map in channels-last layout, the reverse of `MapToVector`.

    Args:
        in_features: size of the vector.
        shape: (channels, height, width) of the map.
    """

    def __init__(self, in_features: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.channels, *self.size = shape
        layer = nn.Linear(in_features, prod(shape))
        weight = layer.weight.detach().view(self.channels, -1, in_features)
        self.weight = nn.Parameter(weight.transpose(0, 1).contiguous())  # (height width, channels, in)
        self.bias = nn.Parameter(layer.bias.detach().view(self.channels, -1).t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, in_features) -> (batch, *shape)."""
        positions = linear(x, self.weight.flatten(0, 1), self.bias.flatten())
        return positions.unflatten(1, (*self.size, self.channels)).movedim(-1, 1)


class VectorHead(nn.Module):
    """Lowest stage -> loc, scale and context by fully connected layers.

    Args:
        bottom: shape of the lowest stage, (channels, height, width).
        latent_shape: (D,).
        context_features: size of the context; 0 for none.
        hidden_features: widths of the fully connected layers.
    """

    def __init__(
        self,
        bottom: tuple[int, int, int],
        latent_shape: Sequence[int],
        context_features: int,
        hidden_features: Sequence[int],
    ) -> None:
        super().__init__()
        latent_dim = prod(latent_shape)
        self.sizes = (latent_dim, latent_dim, context_features)
        self.layers = flat_layers(bottom, (*hidden_features, sum(self.sizes)))
        start_near_standard_normal(self.layers[-1], latent_dim)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """hidden (batch, *bottom) -> loc (batch, D), scale (batch, D) > 0, context (batch, context)."""
        loc, raw_scale, context = self.layers(hidden).split(self.sizes, dim=-1)
        return loc, positive_scale(raw_scale), context


class MapHead(nn.Module):
    """Lowest stage -> loc and scale by a 1 x 1 convolution, and context by fully connected layers.

    Args:
        bottom: shape of the lowest stage, (channels, height, width).
        latent_shape: (channels, height, width).
        context_features: size of the context; 0 for none, and then there are no fully connected layers.
        hidden_features: widths of the fully connected layers.

    Raises:
        ValueError: the latent map does not have the height and width of the lowest stage.
    """

    def __init__(
        self,
        bottom: tuple[int, int, int],
        latent_shape: Sequence[int],
        context_features: int,
        hidden_features: Sequence[int],
    ) -> None:
        super().__init__()
        check_map(latent_shape, bottom)
        self.to_latents = nn.Conv2d(bottom[0], 2 * latent_shape[0], 1)
        start_near_standard_normal(self.to_latents, latent_shape[0])
        self.to_context = flat_layers(bottom, (*hidden_features, context_features)) if context_features else None

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """hidden (batch, *bottom) -> loc (batch, D), scale (batch, D) > 0, context (batch, context)."""
        loc, raw_scale = (part.flatten(1) for part in self.to_latents(hidden).chunk(2, dim=1))
        context = hidden.new_empty(len(hidden), 0) if self.to_context is None else self.to_context(hidden)
        return loc, positive_scale(raw_scale), context


def vector_decoder_head(
    latent_shape: Sequence[int], bottom: tuple[int, int, int], hidden_features: Sequence[int]
) -> nn.Sequential:
    """Latents (batch, D) -> lowest stage (batch, *bottom) by fully connected layers."""
    *widths, last = (prod(latent_shape), *hidden_features)
    layers = [layer for pair in pairwise((*widths, last)) for layer in (nn.Linear(*pair), nn.SiLU())]
    return nn.Sequential(*layers, VectorToMap(last, bottom))


def map_decoder_head(
    latent_shape: Sequence[int], bottom: tuple[int, int, int], hidden_features: Sequence[int]
) -> nn.Sequential:
    """Flattened latent map (batch, D) -> lowest stage (batch, *bottom) by one 3 x 3 convolution.

    `hidden_features` is ignored.

    Raises:
        ValueError: the latent map does not have the height and width of the lowest stage.
    """
    check_map(latent_shape, bottom)
    return nn.Sequential(nn.Unflatten(-1, tuple(latent_shape)), nn.Conv2d(latent_shape[0], bottom[0], 3, padding=1))


# By the number of axes of the latents: 1 for a vector, 3 for a map.
ENCODER_HEADS = {1: VectorHead, 3: MapHead}
DECODER_HEADS = {1: vector_decoder_head, 3: map_decoder_head}


def flat_layers(bottom: tuple[int, int, int], widths: Sequence[int]) -> nn.Sequential:
    """Fully connected layers of the given widths on the lowest stage."""
    first, *rest = widths
    return nn.Sequential(MapToVector(bottom, first), *fully_connected((first, *rest)))


def start_near_standard_normal(last: nn.Module, num_scales: int) -> None:
    """Initialise a linear or convolutional layer so that the scales it computes are near 1.

    The outputs from num_scales to 2 num_scales are the raw scales. They get a small weight and the bias whose softplus
    is 1.
    """
    raw_scales = slice(num_scales, 2 * num_scales)
    weight, bias = last.get_parameter("weight"), last.get_parameter("bias")
    with torch.no_grad():
        weight[raw_scales] *= 0.1
        bias[raw_scales] = SOFTPLUS_INV_ONE


def positive_scale(raw_scale: Tensor) -> Tensor:
    """Map raw scales to scales of at least MIN_SCALE, whose logarithm is finite."""
    return nn.functional.softplus(raw_scale) + MIN_SCALE
