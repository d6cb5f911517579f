"""Real NVP on maps, with convolutions for s and t: arXiv:1605.08803, sections 3.4 to 3.6."""

from math import prod
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from flowvae.config import NonNegativeInt, PositiveInt
from flowvae.flows.coupling import ALTERNATING, CouplingConfig, CouplingStack
from flowvae.flows.normalization import Normalization, norm_layers
from flowvae.flows.partitions import Channels, Checkerboard, MapShape, checkerboard
from flowvae.networks import context_terms, norm_weights, zero_layer
from flowvae.statistics import BatchNorm
from flowvae.transforms import ComposedTransform, Transform


class ConvRealNVPConfig(CouplingConfig):
    flow: Literal["conv_real_nvp"]
    map_shape: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Field(strict=False)] | None
    hidden_channels: PositiveInt
    num_blocks: NonNegativeInt


class ConvNet(nn.Module):
    """s and t of a coupling: a convolution, residual blocks, and a convolution that starts at zero.

    Kernels are 3 wide, and 1 along a side of the map that is 1. The context enters the first hidden layer
    through a linear map of its own, the same at every position.

    Args:
        in_channels, out_channels: of the maps.
        size: (H, W) of the maps.
        hidden_channels: of all layers between.
        num_blocks: residual blocks of two convolutions.
        context_features: size of the context; 0 for none.
        weight_norm: in every layer.
        batch_norm: before every SiLU, in place of the biases of all layers before.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int],
        hidden_channels: int,
        num_blocks: int,
        context_features: int,
        *,
        weight_norm: bool,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        self.first = convolution(in_channels, hidden_channels, size, bias=not batch_norm)
        self.context = nn.Linear(context_features, hidden_channels, bias=False) if context_features else None
        self.blocks = nn.Sequential(
            *(ResidualBlock(hidden_channels, size, batch_norm=batch_norm) for _ in range(num_blocks)),
            *activation(hidden_channels, batch_norm),
            convolution(hidden_channels, out_channels, size),
        )
        if weight_norm:
            norm_weights(self)
        zero_layer(self.blocks[-1])

    def forward(self, z: Tensor, context_term: Tensor | None) -> Tensor:
        """z (*sample_shape, batch, in, H, W), context_term (batch, hidden) -> (*sample_shape, batch, out, H, W)."""
        hidden = self.first(z.flatten(0, -4)).unflatten(0, z.shape[:-3])
        if context_term is not None:
            hidden = hidden + context_term[..., None, None]
        return self.blocks(hidden.flatten(0, -4)).unflatten(0, z.shape[:-3])


class ResidualBlock(nn.Module):
    """x plus two convolutions, each after a SiLU (He et al. 2016, arXiv:1603.05027, section 4.1)."""

    def __init__(self, channels: int, size: tuple[int, int], *, batch_norm: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *activation(channels, batch_norm),
            convolution(channels, channels, size, bias=not batch_norm),
            *activation(channels, batch_norm),
            convolution(channels, channels, size, bias=not batch_norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def convolution(fan_in: int, fan_out: int, size: tuple[int, int], *, bias: bool = True) -> nn.Conv2d:
    """One that keeps the size of its maps, and has no weight that only ever meets the padding."""
    kernel = [3 if side > 1 else 1 for side in size]
    return nn.Conv2d(fan_in, fan_out, kernel, padding=[side // 2 for side in kernel], bias=bias)


def activation(channels: int, batch_norm: bool) -> list[nn.Module]:
    return [*([BatchNorm(channels, num_position_axes=2)] if batch_norm else []), nn.SiLU()]


class ConvRealNVP(nn.Module):
    """K transformations of a map, each a checkerboard pair of couplings, then a channel-wise pair.

    The channel-wise pair acts on the squeezed map, which is unsqueezed again; where a side is odd, on the
    channels as they are, and where there is but one, not at all. A map of one position has no checkerboard
    pair. So each transformation moves every dimension. The last layer of every net starts at zero, and what
    the nets return is multiplied by 1 / sqrt(number of couplings), as in `RealNVP`.

    Args:
        latent_shape: of the embedding: the map, or any shape of size D.
        context_features: size of the context; ignored without `context`.
        num_transforms: K.
        map_shape: (C, H, W) that the embedding is reshaped to; None where it is a map.
        hidden_channels, num_blocks: of s and t (`ConvNet`).
        context: s and t see the encoder's context.
        log_scale_bound: bound on |s|.
        normalization: of each channel of the map after each transformation.
        weight_norm: in s and t.
        net_batch_norm: batch norm of the hidden layers of s and t.

    Raises:
        ValueError: there is no map, it does not hold the embedding, or it has one number only.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        context_features: int,
        *,
        num_transforms: int,
        map_shape: MapShape | None,
        hidden_channels: int,
        num_blocks: int,
        context: bool,
        log_scale_bound: float,
        normalization: Normalization,
        weight_norm: bool,
        net_batch_norm: bool,
    ) -> None:
        super().__init__()
        self.map_shape = channels, height, width = checked_map(latent_shape, map_shape)
        self.context_features = context_features if context else 0
        self.log_scale_bound = log_scale_bound
        self.register_buffer("black", checkerboard(height, width), persistent=False)
        settings = (hidden_channels, num_blocks, self.context_features)
        self.nets = nn.ModuleList(
            ConvNet(*partition.net_shape(moved), *settings, weight_norm=weight_norm, batch_norm=net_batch_norm)
            for _ in range(num_transforms)
            for partition in self._partitions()
            for moved in ALTERNATING
        )
        self.gain = len(self.nets) ** -0.5
        self.norms = norm_layers(normalization, num_transforms, channels, height * width)
        self.num_transforms = num_transforms

    def forward(self, context: Tensor) -> Transform:
        nets, terms = list(self.nets), context_terms(self.nets, context if self.context_features else None)
        partitions = self._partitions()
        transforms: list[Transform] = []
        for k in range(self.num_transforms):
            for i, partition in enumerate(partitions, start=k * len(partitions)):
                pair = slice(2 * i, 2 * i + 2)
                transforms.append(CouplingStack(nets[pair], terms[pair], partition, self.log_scale_bound, self.gain))
            transforms += [self.norms[k]()] if self.norms else []
        return ComposedTransform(transforms)

    def _partitions(self) -> list[Checkerboard | Channels]:
        """Of the pairs of couplings of one transformation."""
        board, channels = Checkerboard(self.map_shape, self.black), Channels(self.map_shape)
        return ([board] if self.black.numel() > 1 else []) + ([channels] if min(channels.sizes) > 0 else [])


def checked_map(latent_shape: tuple[int, ...], map_shape: MapShape | None) -> MapShape:
    """The map that the latent vector is.

    Raises:
        ValueError: there is none, it is of another size than the latent vector, or it has one number only.
    """
    found = latent_shape if map_shape is None else map_shape
    if len(found) != 3:
        raise ValueError(
            f"expected a latent of shape (channels, height, width) for conv_real_nvp, or its map_shape, "
            f"got {tuple(found)} and no map_shape"
        )
    if prod(found) != prod(latent_shape):
        raise ValueError(
            f"expected a map_shape of {prod(latent_shape)} numbers for a latent of shape {tuple(latent_shape)}, "
            f"got {tuple(found)}, which has {prod(found)}"
        )
    if prod(found) < 2:
        raise ValueError(f"expected a map of at least 2 numbers for conv_real_nvp, got {tuple(found)}")
    return tuple(found)
