"""Networks of a hierarchy of latent maps: features upwards from the image, and latents downwards from the smallest map.

A ladder, as in Sonderby et al. 2016, arXiv:1602.02282, with residual blocks and with the deterministic path downwards
of Kingma et al. 2016, arXiv:1606.04934, section 4: what the prior of a level needs to know of the levels above, the
posterior and the decoder need as well, so all three share it.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from flowvae.config import MapShape, PositiveInt, StageChannels
from flowvae.model.networks.heads import bottom_shape
from flowvae.model.networks.network import DecoderConfig, EncoderConfig
from flowvae.model.networks.residual import ResidualBlock, blocks
from flowvae.model.networks.weight_norm import zero_layer
from flowvae.model.transforms import bounded

LOG_SCALE_BOUND = 4.0  # of each level, relative to the one that it starts from
BLOCKS_PER_LEVEL = 3  # prior, posterior, and what follows the latents
# (number of the level, the path there, loc and log-scale of its prior's base) -> its latents
Choose = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class LadderEncoderConfig(EncoderConfig):
    """Stages of residual blocks, whose features all levels of a hierarchy see.

    Attributes:
        channels: of each stage, which halves the image.
        num_blocks: residual blocks of each stage.
        context_features: channels of the context that flows see of the image.
    """

    name: Literal["ladder"] = "ladder"
    channels: StageChannels = (32, 48, 48)
    num_blocks: PositiveInt = 1
    context_features: PositiveInt = 16


class LadderDecoderConfig(DecoderConfig):
    """Levels from the smallest latent map to the largest.

    Attributes:
        channels: those of the encoder in reverse.
    """

    name: Literal["ladder"] = "ladder"
    channels: StageChannels = (48, 48, 32)


class LadderEncoder(nn.Module):
    """Image -> one map of features per stage; and for each level, where the posterior lies relative to the prior.

    Each entry of `channels` is a stage: the image, or the stage before, at half the size, and `num_blocks` residual
    blocks.

    Args:
        image_shape: (channels, height, width); height and width divisible by 2^len(channels).
        latent_shape: of the levels, (channels, height, width) each, from the smallest map.
        context_features: channels of the context for the flow of each level; 0 for none.
        channels: channels of each stage.
        num_blocks: residual blocks of each stage.

    Raises:
        ValueError: height or width of the image is not divisible by 2^len(channels), or a level has the size of no
            stage.
    """

    def __init__(
        self,
        image_shape: MapShape,
        latent_shape: Sequence[MapShape],
        context_features: int,
        *,
        channels: Sequence[int],
        num_blocks: int,
    ) -> None:
        super().__init__()
        self.stage_of_level = stages_of(image_shape, latent_shape, channels)
        gain = ladder_gain(len(channels) * num_blocks, len(latent_shape))
        first = nn.Conv2d(image_shape[0], channels[0], 6, stride=2, padding=2)
        shrink = [nn.Conv2d(above, below, 2, stride=2) for above, below in pairwise(channels)]
        self.stages = nn.ModuleList(
            nn.Sequential(half, *blocks(width, num_blocks, gain))
            for half, width in zip((first, *shrink), channels, strict=True)
        )
        self.heads = nn.ModuleList(
            PosteriorHead(channels[stage], level[0], context_features, gain)
            for stage, level in zip(self.stage_of_level, latent_shape, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """x (batch, *image_shape) in [0, 1] -> features of each stage (batch, channels, height, width)."""
        features = []
        hidden = 2 * x.to(memory_format=torch.channels_last) - 1
        for stage in self.stages:
            hidden = stage(hidden)
            features.append(hidden)
        return features


class PosteriorHead(nn.Module):
    """What the posterior of a level adds to its prior.

    Args:
        width: channels of the path downwards, and of the features.
        num_channels: of the latent map.
        context_features: channels of the context for the level's flow.
        gain: factor on the residual branch.
    """

    def __init__(self, width: int, num_channels: int, context_features: int, gain: float) -> None:
        super().__init__()
        self.sizes = (num_channels, num_channels, context_features)
        self.layers = nn.Sequential(nn.Conv2d(2 * width, width, 1), ResidualBlock(width, gain), nn.SiLU())
        self.last = nn.Conv2d(width, sum(self.sizes), 1)
        with torch.no_grad():  # the context is not zero, or a flow whose last layers are zero would never depend on it
            self.last.weight[: 2 * num_channels] = 0
            self.last.get_parameter("bias")[: 2 * num_channels] = 0

    def forward(self, hidden: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two maps (batch, width, H, W) -> the shift of loc, that of log-scale, and the context, maps of H x W."""
        shift, raw, context = self.last(self.layers(torch.cat((hidden, features), dim=1))).split(self.sizes, dim=1)
        return shift, bounded(raw, LOG_SCALE_BOUND), context


class Level(nn.Module):
    """One level of the path downwards.

    Args:
        width: channels of the path.
        num_channels: of the latent map.
        gain: factor on the residual branches.
    """

    def __init__(self, width: int, num_channels: int, gain: float) -> None:
        super().__init__()
        self.sizes = (num_channels, num_channels, width)
        last = nn.Conv2d(width, sum(self.sizes), 1)
        zero_layer(last)
        self.prior = nn.Sequential(ResidualBlock(width, gain), nn.SiLU(), last)
        self.from_latents = nn.Conv2d(num_channels, width, 1)
        self.block = ResidualBlock(width, gain)

    def prior_of(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Path (batch, width, H, W) -> loc and log-scale of the prior's base (batch, C, H, W), and what is added to
        the path.
        """
        loc, raw, added = self.prior(hidden).split(self.sizes, dim=1)
        return loc, bounded(raw, LOG_SCALE_BOUND), added

    def forward(self, hidden: Tensor, added: Tensor, z: Tensor) -> Tensor:
        """The path below, given the latents z (batch, C, H, W); shape of hidden."""
        return self.block(hidden + added + self.from_latents(z))


class LadderDecoder(nn.Module):
    """The path downwards, from a constant at the smallest map through all levels to the parameters of the likelihood.

    Args:
        image_shape: (channels, height, width); height and width divisible by 2^len(channels).
        latent_shape: of the levels, (channels, height, width) each, from the smallest map.
        initial_output: bias of the output at every pixel, shape (P,).
        channels: channels of each stage, from the smallest map.

    Raises:
        ValueError: as for the encoder.
    """

    def __init__(
        self,
        image_shape: MapShape,
        latent_shape: Sequence[MapShape],
        initial_output: Tensor,
        *,
        channels: Sequence[int],
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        last = len(channels) - 1
        stages = [last - stage for stage in stages_of(image_shape, latent_shape, channels[::-1])]
        gain = ladder_gain(len(channels), len(latent_shape))
        _, height, width = bottom_shape(image_shape, channels)
        self.start = nn.Parameter(torch.zeros(channels[0], height, width))
        self.levels = nn.ModuleList(
            Level(channels[stage], level[0], gain) for stage, level in zip(stages, latent_shape, strict=True)
        )
        # How the path gets to the size of each level, and of the last stage.
        self.growth = nn.ModuleList(grow(channels[i : j + 1]) for i, j in pairwise((0, *stages, last)))
        to_image = nn.Conv2d(channels[-1], 4 * len(initial_output), 1)
        with torch.no_grad():
            to_image.get_parameter("bias").copy_(initial_output.repeat_interleave(4))
        self.to_image = nn.Sequential(nn.SiLU(), to_image, nn.PixelShuffle(2))

    def forward(self, z: Tensor) -> Tensor:
        """z (*sample_shape, batch, D) -> parameters (*sample_shape, batch, P, height, width)."""
        rows = z.flatten(0, -2)
        given = split_levels(rows, self.latent_shape)
        output: Tensor = self.to_image(self.walk(rows.shape[0], lambda level, *path: given[level]))
        return output.unflatten(0, z.shape[:-1])

    def walk(self, num_images: int, choose: Choose) -> Tensor:
        """Walk down all levels.

        Args:
            num_images: n.
            choose: returns the latents of a level; all its maps have the level's size and n rows.

        Returns:
            The path below the last level, shape (n, channels, H / 2, W / 2).
        """
        hidden = self.start.expand(num_images, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        *before, after = self.growth
        for i, (growth, level) in enumerate(zip(before, self.levels, strict=True)):
            hidden = growth(hidden)
            loc, log_scale, added = level.prior_of(hidden)  # type: ignore[operator]
            hidden = level(hidden, added, choose(i, hidden, loc, log_scale))
        path: Tensor = after(hidden)
        return path


def split_levels(rows: Tensor, latent_shape: Sequence[MapShape]) -> list[Tensor]:
    """Latents (n, D) -> the map of each level (n, C, H, W)."""
    parts = rows.split([prod(level) for level in latent_shape], dim=1)
    return [part.unflatten(1, level) for part, level in zip(parts, latent_shape, strict=True)]


def grow(channels: Sequence[int]) -> nn.Sequential:
    """Double a map once per step between channels: a 1 x 1 convolution and a pixel shuffle each."""
    return nn.Sequential(
        *(
            layer
            for small, large in pairwise(channels)
            for layer in (nn.Conv2d(small, 4 * large, 1), nn.PixelShuffle(2))
        )
    )


def stages_of(image_shape: MapShape, levels: Sequence[MapShape], channels: Sequence[int]) -> list[int]:
    """The stage of the encoder whose size each level has.

    Raises:
        ValueError: a level has the size of no stage, or is smaller than the one before.
    """
    bottom_shape(image_shape, channels)
    sizes = [(image_shape[1] >> i, image_shape[2] >> i) for i in range(1, len(channels) + 1)]
    for level in levels:
        if level[1:] not in sizes:
            expected, got = (", ".join(f"{h} x {w}" for h, w in some) for some in (sizes, [level[1:]]))
            raise ValueError(f"expected levels of sizes {expected} for {len(channels)} stages of channels, got {got}")
    stages = [sizes.index(level[1:]) for level in levels]
    if stages != sorted(stages, reverse=True):
        raise ValueError(f"expected levels from the smallest map to the largest, got {list(map(list, levels))}")
    return stages


def ladder_gain(num_blocks: int, num_levels: int) -> float:
    """Factor on every residual branch, 1 / sqrt(blocks), for a path through all of them."""
    return (num_blocks + BLOCKS_PER_LEVEL * num_levels) ** -0.5
