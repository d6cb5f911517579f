"""Encoders, decoders and MLP: tensors in, parameters out.

A kind of network is one file here and one entry in NETWORKS; encoder and decoder may be of different kinds.
"""

from functools import reduce
from operator import or_
from typing import Annotated, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from flowvae.config import Config
from flowvae.networks.conv import ConvDecoder, ConvDecoderConfig, ConvEncoder, ConvEncoderConfig
from flowvae.networks.heads import bottom_shape
from flowvae.networks.mlp import MLP, context_terms
from flowvae.networks.residual import (
    ResidualDecoder,
    ResidualDecoderConfig,
    ResidualEncoder,
    ResidualEncoderConfig,
)
from flowvae.networks.weight_norm import norm_weights, plain_weights, zero_layer


class Network(NamedTuple):
    """An encoder and a decoder, each with the settings that it is built from.

    Encoders take (image_shape, latent_shape, context_features, **settings), decoders (image_shape,
    latent_shape, initial_output, **settings). Both raise ValueError where these do not fit each other.
    """

    encoder_config: type[Config]
    encoder: type[nn.Module]
    decoder_config: type[Config]
    decoder: type[nn.Module]


NETWORKS = {
    "conv": Network(ConvEncoderConfig, ConvEncoder, ConvDecoderConfig, ConvDecoder),
    "residual": Network(ResidualEncoderConfig, ResidualEncoder, ResidualDecoderConfig, ResidualDecoder),
}

EncoderConfig = Annotated[
    reduce(or_, (network.encoder_config for network in NETWORKS.values())), Field(discriminator="name")
]
DecoderConfig = Annotated[
    reduce(or_, (network.decoder_config for network in NETWORKS.values())), Field(discriminator="name")
]


def build_encoder(
    config: Config, image_shape: tuple[int, int, int], latent_shape: tuple[int, ...], context_features: int
) -> nn.Module:
    """The encoder that `config` describes, with as much context as the flow wants."""
    settings = config.model_dump(exclude={"name", "context_features"})
    return NETWORKS[config.name].encoder(image_shape, latent_shape, context_features, **settings)


def build_decoder(
    config: Config, image_shape: tuple[int, int, int], latent_shape: tuple[int, ...], initial_output: Tensor
) -> nn.Module:
    """The decoder that `config` describes, with the P outputs per pixel that the likelihood wants."""
    settings = config.model_dump(exclude={"name"})
    return NETWORKS[config.name].decoder(image_shape, latent_shape, initial_output, **settings)


__all__ = [
    "MLP",
    "NETWORKS",
    "ConvDecoder",
    "ConvEncoder",
    "DecoderConfig",
    "EncoderConfig",
    "Network",
    "ResidualDecoder",
    "ResidualEncoder",
    "bottom_shape",
    "build_decoder",
    "build_encoder",
    "context_terms",
    "norm_weights",
    "plain_weights",
    "zero_layer",
]
