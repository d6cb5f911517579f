"""Settings of a VAE."""

from math import prod
from typing import cast

from flowvae.config import Config, ImageShape, LatentShape, MapShape, has_levels
from flowvae.model.flows import AnyFlowConfig
from flowvae.model.likelihoods import AnyLikelihoodConfig
from flowvae.model.networks import AnyDecoderConfig, AnyEncoderConfig


class ModelConfig(Config):
    """What the variants of one comparison share: everything but the flows of posterior and prior."""

    latent_shape: LatentShape
    likelihood: AnyLikelihoodConfig
    encoder: AnyEncoderConfig
    decoder: AnyDecoderConfig


class VAEConfig(Config):
    """Everything that determines the layers of a VAE and their sizes; None for modules of the user's own.

    Attributes:
        image_shape: (C, H, W).
        latent_shape: (D,), (channels, height, width) of a map, or a list of maps from the smallest.
        posterior, prior: flows.
        likelihood: of the pixels.
        encoder, decoder: networks.
    """

    image_shape: ImageShape
    latent_shape: LatentShape
    posterior: AnyFlowConfig | None
    prior: AnyFlowConfig | None
    likelihood: AnyLikelihoodConfig
    encoder: AnyEncoderConfig | None
    decoder: AnyDecoderConfig | None

    @property
    def level(self) -> tuple[int, ...]:
        """The shape of latents that are a vector or a map.

        Raises:
            ValueError: they are a hierarchy.
        """
        if has_levels(self.latent_shape):
            raise ValueError(f"expected one latent shape, got {self.latent_shape}; use flowvae.HierarchicalVAE")
        return cast("tuple[int, ...]", self.latent_shape)

    @property
    def levels(self) -> tuple[MapShape, ...]:
        """The shapes of the maps of a hierarchy.

        Raises:
            ValueError: the latents are a vector or a map.
        """
        if not has_levels(self.latent_shape):
            raise ValueError(f"expected a list of latent maps for a hierarchy, got {self.latent_shape}")
        return cast("tuple[MapShape, ...]", self.latent_shape)

    @property
    def latent_dim(self) -> int:
        """D."""
        return sum(map(prod, self.levels)) if has_levels(self.latent_shape) else prod(self.level)
