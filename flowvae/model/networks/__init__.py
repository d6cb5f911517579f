"""Encoders, decoders and the MLP of coupling flows.

A kind of network is one file in this folder and one entry in NETWORKS (see `network` for the contract). Encoder and
decoder may be of different kinds.
"""

from typing import Annotated

from pydantic import SerializeAsAny
from torch import Tensor, nn

from flowvae.config import LatentSizes, entry_by, has_levels
from flowvae.model.networks.conv import ConvDecoder, ConvDecoderConfig, ConvEncoder, ConvEncoderConfig
from flowvae.model.networks.heads import SOFTPLUS_INV_ONE, bottom_shape
from flowvae.model.networks.ladder import (
    LadderDecoder,
    LadderDecoderConfig,
    LadderEncoder,
    LadderEncoderConfig,
    split_levels,
)
from flowvae.model.networks.masked import MaskedLinear, MaskedMLP
from flowvae.model.networks.mlp import MLP, context_terms
from flowvae.model.networks.network import DecoderConfig, EncoderConfig, NetworkEntry
from flowvae.model.networks.residual import (
    ResidualDecoder,
    ResidualDecoderConfig,
    ResidualEncoder,
    ResidualEncoderConfig,
)
from flowvae.model.networks.weight_norm import norm_weights, plain_weights, zero_layer

NETWORKS = {
    "conv": NetworkEntry(ConvEncoderConfig, ConvEncoder, ConvDecoderConfig, ConvDecoder),
    "residual": NetworkEntry(ResidualEncoderConfig, ResidualEncoder, ResidualDecoderConfig, ResidualDecoder),
    "ladder": NetworkEntry(LadderEncoderConfig, LadderEncoder, LadderDecoderConfig, LadderDecoder, of_levels=True),
}

AnyEncoderConfig = Annotated[
    SerializeAsAny[EncoderConfig], entry_by("name", lambda name: NETWORKS[name].encoder_config, NETWORKS)
]
AnyDecoderConfig = Annotated[
    SerializeAsAny[DecoderConfig], entry_by("name", lambda name: NETWORKS[name].decoder_config, NETWORKS)
]


def build_encoder(
    config: EncoderConfig,
    image_shape: tuple[int, int, int],
    latent_shape: LatentSizes,
    context_features: int,
) -> nn.Module:
    """Build the encoder that `config` describes.

    Args:
        config: settings of one kind of encoder.
        image_shape: (channels, height, width).
        latent_shape: (D,) of a vector, (channels, height, width) of a map, or a tuple of maps.
        context_features: size of the context that the flow uses, 0 for none; it replaces that of the config.

    Raises:
        ValueError: the settings do not fit the shapes.
    """
    check_levels("encoder", config.name, latent_shape)
    settings = config.model_dump(exclude={"name", "context_features"})
    return NETWORKS[config.name].encoder(image_shape, latent_shape, context_features, **settings)


def build_decoder(
    config: DecoderConfig,
    image_shape: tuple[int, int, int],
    latent_shape: LatentSizes,
    initial_output: Tensor,
) -> nn.Module:
    """Build the decoder that `config` describes.

    Args:
        config: settings of one kind of decoder.
        image_shape: (channels, height, width).
        latent_shape: (D,) of a vector, (channels, height, width) of a map, or a tuple of maps.
        initial_output: bias of the output at every pixel, shape (P,) for P parameters of the likelihood per pixel.

    Raises:
        ValueError: the settings do not fit the shapes.
    """
    check_levels("decoder", config.name, latent_shape)
    settings = config.model_dump(exclude={"name"})
    return NETWORKS[config.name].decoder(image_shape, latent_shape, initial_output, **settings)


def check_levels(part: str, name: str, latent_shape: LatentSizes) -> None:
    """Raise ValueError if a network is for a hierarchy of latents and there is none, or the reverse."""
    wanted = has_levels(latent_shape)
    if NETWORKS[name].of_levels != wanted:
        names = ", ".join(name for name, entry in NETWORKS.items() if entry.of_levels == wanted)
        latents = "a list of latent maps" if wanted else "a latent vector or map"
        raise ValueError(f"expected the {part} {names} for {latents}, got {name}")


__all__ = [
    "MLP",
    "NETWORKS",
    "SOFTPLUS_INV_ONE",
    "AnyDecoderConfig",
    "AnyEncoderConfig",
    "ConvDecoder",
    "ConvDecoderConfig",
    "ConvEncoder",
    "ConvEncoderConfig",
    "DecoderConfig",
    "EncoderConfig",
    "LadderDecoder",
    "LadderDecoderConfig",
    "LadderEncoder",
    "LadderEncoderConfig",
    "MaskedLinear",
    "MaskedMLP",
    "NetworkEntry",
    "ResidualDecoder",
    "ResidualEncoder",
    "bottom_shape",
    "build_decoder",
    "build_encoder",
    "context_terms",
    "norm_weights",
    "plain_weights",
    "split_levels",
    "zero_layer",
]
