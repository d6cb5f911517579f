"""The contract of a kind of network: settings and modules of its encoder and decoder."""

from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from flowvae.config import Config, PositiveInt


class EncoderConfig(Config):
    """Settings that every encoder has; `name` is the name of its entry in NETWORKS.

    Every encoder's config also declares `context_features`, the size of the context that the encoder can provide.
    """

    name: str
    if TYPE_CHECKING:  # not a field here: fields of the base come first in config.json, and this one comes last
        context_features: PositiveInt


class DecoderConfig(Config):
    """Settings that every decoder has; `name` is the name of its entry in NETWORKS."""

    name: str


class NetworkEntry(NamedTuple):
    """An encoder and a decoder, each with the config from whose fields it is built.

    Encoders are built from (image_shape, latent_shape, context_features, **settings), decoders from (image_shape,
    latent_shape, initial_output, **settings). Both raise ValueError if these do not fit each other.

    An encoder maps images (batch, *image_shape) to loc (batch, D), scale (batch, D) > 0 and context
    (batch, context_features). A decoder maps latents (*sample_shape, batch, D) to P parameters per pixel
    (*sample_shape, batch, P, height, width).

    Networks with `of_levels` are those of a hierarchy of latents, which depend on each other (see `ladder`).
    """

    encoder_config: type[EncoderConfig]
    encoder: type[nn.Module]
    decoder_config: type[DecoderConfig]
    decoder: type[nn.Module]
    of_levels: bool = False
