"""Real NVP on maps, with convolutions for s and t: arXiv:1605.08803, sections 3.4 to 3.6."""

from math import prod
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from flowvae.config import NonNegativeInt, PositiveInt
from flowvae.model.batch_norm import BatchNorm
from flowvae.model.flows.coupling import ALTERNATING, AffineCouplings, CouplingConfig
from flowvae.model.flows.family import Flow
from flowvae.model.flows.normalization import Normalization, norm_layers
from flowvae.model.flows.partitions import ChannelSplit, Checkerboard, MapShape, checkerboard
from flowvae.model.networks import context_terms, norm_weights, zero_layer
from flowvae.model.transforms import ComposedTransform, Transform


class ConvRealNVPConfig(CouplingConfig):
    """2K affine couplings of a map whose s and t are convolutional nets, arXiv:1605.08803, sections 3.4 and 3.6.

    Attributes:
        num_transforms: K, pairs of couplings.
        context: whether the nets see the encoder's context; never in a prior.
        log_scale_bound: bound on |s| of each coupling.
        normalization: after each transformation.
        weight_norm: whether the nets have weight norm.
        net_batch_norm: whether the nets have batch norm.
        map_shape: (channels, height, width) to which a vector is reshaped; None if the latent is a map.
        hidden_channels: channels of the hidden layers.
        num_blocks: residual blocks of two convolutions in each net.
        max_side: larger maps are squeezed (space to depth) until no side is longer. The nets then see more of the map,
            and are as fast for a large map as for a small one; None for no squeeze.
    """

    flow: Literal["conv_real_nvp"] = "conv_real_nvp"
    map_shape: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Field(strict=False)] | None = None
    hidden_channels: PositiveInt = 32
    num_blocks: NonNegativeInt = 1
    max_side: PositiveInt | None = None


class ConvNet(nn.Module):
    """s and t of a coupling: a convolution, residual blocks, and a convolution that is initialised to zero.

    Kernels have size 3, or 1 along a side of the map that has size 1. The context enters the first hidden layer
    through a separate linear map. The contribution of a vector is the same at every position; that of a map is averaged
    over the positions that a squeeze has joined.

    Args:
        in_channels, out_channels: channels of the input and output maps.
        size: (H, W) of the maps.
        hidden_channels: channels of all hidden layers.
        num_blocks: residual blocks of two convolutions.
        context_features: size of the context; 0 for none.
        weight_norm: whether every layer uses weight norm.
        batch_norm: whether batch norm precedes every SiLU, and layers other than the last have no biases.
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
            *(CouplingBlock(hidden_channels, size, batch_norm=batch_norm) for _ in range(num_blocks)),
            *activation(hidden_channels, batch_norm),
            convolution(hidden_channels, out_channels, size),
        )
        if weight_norm:
            norm_weights(self)
        zero_layer(self.blocks[-1])

    def forward(self, z: Tensor, context_term: Tensor | None) -> Tensor:
        """Compute the output map.

        Args:
            z: shape (*sample_shape, batch, in, H, W).
            context_term: shape (batch, hidden), or (batch, hidden, f H, f W) of a map.

        Returns:
            Shape (*sample_shape, batch, out, H, W).
        """
        hidden = self.first(z.flatten(0, -4)).unflatten(0, z.shape[:-3])
        if context_term is not None:
            hidden = hidden + (context_term[..., None, None] if context_term.dim() == 2 else pooled(context_term, z))
        return self.blocks(hidden.flatten(0, -4)).unflatten(0, z.shape[:-3])


def pooled(x: Tensor, like: Tensor) -> Tensor:
    """A map averaged down to the size of another one."""
    factor = x.shape[-1] // like.shape[-1]
    return x if factor == 1 else nn.functional.avg_pool2d(x, factor)


class CouplingBlock(nn.Module):
    """x plus the output of two convolutions, each after a SiLU (He et al. 2016, arXiv:1603.05027, section 4.1)."""

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


def convolution(in_channels: int, out_channels: int, size: tuple[int, int], *, bias: bool = True) -> nn.Conv2d:
    """Build a convolution that preserves the size of its maps, without weights that multiply only padding."""
    height, width = (3 if side > 1 else 1 for side in size)
    padding = (height // 2, width // 2)
    return nn.Conv2d(in_channels, out_channels, (height, width), padding=padding, bias=bias)


def activation(channels: int, batch_norm: bool) -> list[nn.Module]:
    """SiLU, preceded by batch norm if `batch_norm` is set."""
    return [BatchNorm(channels, num_position_axes=2), nn.SiLU()] if batch_norm else [nn.SiLU()]


class ConvRealNVP(Flow):
    """K transformations of a map, each a checkerboard pair of couplings, then a channel-wise pair.

    The channel-wise pair acts on the squeezed map, which is unsqueezed afterwards. If a side is odd, it acts on the
    channels of the map without a squeeze; if there is only one channel then, the pair is omitted. A map of one position
    has no checkerboard pair. In every case each transformation changes every dimension. The last layer of every net is
    initialised to zero, and the nets' outputs are multiplied by 1 / sqrt(number of couplings), as in `RealNVP`.

    Args:
        latent_shape: shape of the latents: the map, or any shape with the same number of elements.
        context_features: size of the context; ignored without `context`.
        num_transforms: K.
        map_shape: (C, H, W) to which the latents are reshaped; None if `latent_shape` is the map.
        hidden_channels, num_blocks: of s and t (`ConvNet`).
        context: whether s and t depend on the encoder's context.
        log_scale_bound: bound on |s|.
        normalization: layer that normalises each channel of the map after each transformation.
        weight_norm: whether s and t use weight norm.
        net_batch_norm: whether the hidden layers of s and t use batch norm.
        max_side: longest side of the maps that s and t see; None for no limit.

    Raises:
        ValueError: there is no map, it has another number of elements than the latents, it has only one element, or it
            cannot be squeezed to `max_side`.
    """

    black: Tensor
    takes_map = True

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
        max_side: int | None,
    ) -> None:
        super().__init__()
        self.map_shape = channels, height, width = checked_map(latent_shape, map_shape)
        self.factor = squeeze_factor(self.map_shape, max_side)
        self.context_features = context_features if context else 0
        self.log_scale_bound = log_scale_bound
        self.register_buffer("black", checkerboard(height // self.factor, width // self.factor), persistent=False)
        self.nets = nn.ModuleList(
            ConvNet(
                *partition.net_shape(moved),
                hidden_channels,
                num_blocks,
                self.context_features,
                weight_norm=weight_norm,
                batch_norm=net_batch_norm,
            )
            for _ in range(num_transforms)
            for partition in self._partitions()
            for moved in ALTERNATING
        )
        self.gain = len(self.nets) ** -0.5
        self.norms = norm_layers(normalization, num_transforms, channels, height * width)
        self.num_transforms = num_transforms

    def forward(self, context: Tensor) -> Transform:
        nets = list(self.nets)
        terms = context_terms(nets, context if self.context_features else None)
        partitions = self._partitions()
        transforms: list[Transform] = []
        for k in range(self.num_transforms):
            for i, partition in enumerate(partitions, start=k * len(partitions)):
                pair = slice(2 * i, 2 * i + 2)
                transforms.append(AffineCouplings(nets[pair], terms[pair], partition, self.log_scale_bound, self.gain))
            transforms += [self.norms[k]()] if self.norms else []
        return ComposedTransform(transforms)

    def _partitions(self) -> list[Checkerboard | ChannelSplit]:
        """The partitions of one transformation, one for each pair of couplings."""
        board = Checkerboard(self.map_shape, self.black, self.factor)
        channels = ChannelSplit(self.map_shape, self.factor)
        return ([board] if self.black.numel() > 1 else []) + ([channels] if min(channels.sizes) > 0 else [])


def squeeze_factor(map_shape: MapShape, max_side: int | None) -> int:
    """The least factor of a squeeze, a power of 2, after which no side of a map is longer than `max_side`.

    Raises:
        ValueError: there is none that divides both sides.
    """
    _, height, width = map_shape
    factor = 1
    while max_side is not None and max(height, width) > factor * max_side:
        factor *= 2
    if height % factor or width % factor:
        raise ValueError(f"max_side: {max_side}: a map of {height} x {width} cannot be squeezed by {factor}")
    return factor


def checked_map(latent_shape: tuple[int, ...], map_shape: MapShape | None) -> MapShape:
    """Return the shape of the map to which the latents are reshaped.

    Raises:
        ValueError: there is no map, it has another number of elements than the latents, or it has only one element.
    """
    shape = latent_shape if map_shape is None else map_shape
    if len(shape) != 3:
        raise ValueError(
            f"expected a latent of shape (channels, height, width), or a map_shape, for conv_real_nvp, "
            f"got {tuple(shape)} and no map_shape"
        )
    if prod(shape) != prod(latent_shape):
        raise ValueError(
            f"expected a map_shape of {prod(latent_shape)} numbers for a latent of shape {tuple(latent_shape)}, "
            f"got {tuple(shape)}, which has {prod(shape)}"
        )
    if prod(shape) < 2:
        raise ValueError(f"expected a map of at least 2 numbers for conv_real_nvp, got {tuple(shape)}")
    channels, height, width = shape
    return channels, height, width
