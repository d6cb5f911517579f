"""Encoder, decoder and MLP: tensors in, parameters out."""

import copy
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from flowvae.statistics import BatchNorm


class MLP(nn.Module):
    """Fully connected layers with SiLU between them, optionally conditioned on a context.

    The context enters the first layer through a linear map of its own (see `context_terms`), so that
    it is computed once per image however many samples of that image there are.

    Args:
        in_features: size of the input's last axis.
        hidden_features: widths of the hidden layers; at least one.
        out_features: size of the output's last axis.
        context_features: size of the context's last axis; 0 for no context.
        weight_norm: every layer's weights are directions times magnitudes (see `norm_weights`).
        batch_norm: every hidden layer has batch norm before its SiLU, in place of a bias.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: Sequence[int],
        out_features: int,
        context_features: int = 0,
        *,
        weight_norm: bool = False,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        first, *_ = hidden_features
        self.first = nn.Linear(in_features, first, bias=not batch_norm)
        self.context = nn.Linear(context_features, first, bias=False) if context_features else None
        self.rest = fully_connected((*hidden_features, out_features), batch_norm=batch_norm)
        if weight_norm:
            norm_weights(self)

    def forward(self, z: Tensor, context_term: Tensor | None = None) -> Tensor:
        """z (*sample_shape, batch, in), context_term (batch, first hidden) -> (*sample_shape, batch, out)."""
        hidden = self.first(z)
        if context_term is not None:
            hidden = hidden + context_term
        return self.rest(hidden)

    def zero_last(self) -> "MLP":
        """Start as the constant function 0."""
        zero_layer(self.rest[-1])
        return self


def norm_weights(module: nn.Module) -> None:
    """Split the weights of all linear and convolutional layers into direction and magnitude, one per output.

    Salimans & Kingma 2016, arXiv:1602.07868, equation 2, as torch's parametrization.
    """
    for layer in list(module.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            parametrizations.weight_norm(layer)


def zero_layer(layer: nn.Linear | nn.Conv2d) -> None:
    """Start as the constant function 0; under weight norm by the magnitude, since a direction cannot be 0."""
    normed = parametrize.is_parametrized(layer, "weight")
    nn.init.zeros_(layer.parametrizations.weight.original0 if normed else layer.weight)
    nn.init.zeros_(layer.bias)


def plain_weights(module: nn.Module) -> nn.Module:
    """What computes the same without weight norm, whose layers cannot be pickled.

    Returns:
        a copy; `module` itself if it has none.
    """
    normed = [layer for layer in module.modules() if parametrize.is_parametrized(layer, "weight")]
    return copy.deepcopy(module, {id(layer): plain_layer(layer) for layer in normed}) if normed else module


def plain_layer(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """One with the weights that the parametrization makes, which torch can only remove in place."""
    settings: dict[str, Any] = {"bias": layer.bias is not None}
    if isinstance(layer, nn.Linear):
        plain = nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features, **settings)
    else:
        settings |= {"kernel_size": layer.kernel_size, "padding": layer.padding}
        plain = nn.utils.skip_init(nn.Conv2d, layer.in_channels, layer.out_channels, **settings)
    plain = plain.to(layer.weight).train(layer.training)
    plain.weight.data.copy_(layer.weight)
    if layer.bias is not None:
        plain.bias.data.copy_(layer.bias)
    return plain


def context_terms(mlps: Sequence[MLP], context: Tensor | None) -> tuple[Tensor | None, ...]:
    """What a context adds to the first layer of each of several MLPs alike, in one matrix product.

    Args:
        mlps: with a context of the same size and a first hidden layer of the same width.
        context: shape (batch, context_features), or None where they have no context.

    Returns:
        one term per MLP, shape (batch, first hidden).
    """
    if context is None:
        return (None,) * len(mlps)
    weights = torch.cat([mlp.context.weight for mlp in mlps])
    return nn.functional.linear(context, weights).chunk(len(mlps), dim=-1)


def fully_connected(widths: Sequence[int], *, batch_norm: bool = False) -> nn.Sequential:
    """SiLU, Linear, SiLU, Linear, ...: maps pre-activations of widths[0] to widths[-1].

    With `batch_norm`, it comes before every SiLU, in place of the bias of the layer before.
    """
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(widths), start=2):
        layers += [BatchNorm(fan_in)] if batch_norm else []
        layers += [nn.SiLU(), nn.Linear(fan_in, fan_out, bias=not batch_norm or i == len(widths))]
    return nn.Sequential(*layers)


class ConvEncoder(nn.Module):
    """Image -> (loc, scale, context) by convolution and pooling, then fully connected layers.

    A 5 x 5 convolution of stride 2, then for each further entry of `channels` average pooling by 2
    and a 3 x 3 convolution, each with SiLU. So every entry halves the image once.

    Args:
        image_shape: (channels, height, width); height and width divisible by 2^len(channels).
        channels: output channels of each stage.
        hidden_features: widths of the fully connected layers.
        latent_dim: D, the size of the embedding.
        context_features: size of the context for the flow; 0 for none.

    Raises:
        ValueError: the image does not halve len(channels) times.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: Sequence[int],
        hidden_features: Sequence[int],
        latent_dim: int,
        context_features: int,
    ) -> None:
        super().__init__()
        self.sizes = (latent_dim, latent_dim, context_features)
        bottom = bottom_shape(image_shape, channels)
        stages: list[nn.Module] = []
        for fan_in, fan_out in pairwise(channels):
            stages += [nn.AvgPool2d(2), nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.SiLU()]
        stem = nn.Conv2d(image_shape[0], channels[0], 5, stride=2, padding=2)
        self.convolutions = nn.Sequential(stem, nn.SiLU(), *stages)
        first, *rest = (*hidden_features, sum(self.sizes))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(prod(bottom), first), *fully_connected((first, *rest)))
        self._start_near_standard_normal(latent_dim)

    def _start_near_standard_normal(self, latent_dim: int) -> None:
        """Scales start near 1: a small weight and the bias with softplus(bias) = 1."""
        last = self.head[-1]
        with torch.no_grad():
            last.weight[latent_dim : 2 * latent_dim] *= 0.1
            last.bias[latent_dim : 2 * latent_dim] = SOFTPLUS_INV_ONE

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (batch, *image_shape) -> loc (batch, D), scale (batch, D) > 0, context (batch, context)."""
        x = x.to(memory_format=torch.channels_last)
        loc, raw_scale, context = self.head(self.convolutions(x)).split(self.sizes, dim=-1)
        return loc, nn.functional.softplus(raw_scale) + MIN_SCALE, context


class ConvDecoder(nn.Module):
    """Latent -> logits of the image by fully connected layers, then transposed convolutions.

    Every entry of `channels` doubles the image once: kernel 4 and stride 2, but for the last, with
    kernel 6, which is computed in its sub-pixel form (3 x 3 convolution, then pixel shuffle). The
    two forms are one map (Shi et al. 2016, arXiv:1609.07009); for a few output channels this one
    is faster.

    Args:
        image_shape: (channels, height, width); height and width divisible by 2^len(channels).
        channels: input channels of each transposed convolution, from the bottom up.
        hidden_features: widths of the fully connected layers.
        latent_dim: D, the size of the embedding.

    Raises:
        ValueError: the image does not halve len(channels) times.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: Sequence[int],
        hidden_features: Sequence[int],
        latent_dim: int,
    ) -> None:
        super().__init__()
        bottom = bottom_shape(image_shape, channels[::-1])
        first, *rest = (*hidden_features, prod(bottom))
        self.head = nn.Sequential(nn.Linear(latent_dim, first), *fully_connected((first, *rest)))
        stages: list[nn.Module] = [nn.Unflatten(-1, bottom)]
        for fan_in, fan_out in pairwise(channels):
            stages += [nn.SiLU(), nn.ConvTranspose2d(fan_in, fan_out, 4, stride=2, padding=1)]
        to_image = nn.Conv2d(channels[-1], 4 * image_shape[0], 3, padding=1)
        nn.init.constant_(to_image.bias, INITIAL_LOGIT)
        self.convolutions = nn.Sequential(*stages, nn.SiLU(), to_image, nn.PixelShuffle(2))

    def forward(self, z: Tensor) -> Tensor:
        """z (*sample_shape, batch, D) -> logits (*sample_shape, batch, *image_shape)."""
        hidden = self.head(z.flatten(0, -2))
        logits = self.convolutions(hidden)
        return logits.unflatten(0, z.shape[:-1])


def bottom_shape(image_shape: tuple[int, int, int], channels: Sequence[int]) -> tuple[int, int, int]:
    """Shape after halving the image once per entry of channels.

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


SOFTPLUS_INV_ONE = 0.5413248546129181  # log(e - 1)
MIN_SCALE = 1e-5  # keeps log(scale) finite
INITIAL_LOGIT = -2.0  # binarized digits are about one eighth ink
