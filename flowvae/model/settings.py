"""Settings of a VAE."""

from flowvae.config import Config, ImageShape, LatentShape
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
    """Everything that determines the layers of a VAE and their sizes; None for modules of the user's own."""

    image_shape: ImageShape
    latent_shape: LatentShape
    posterior: AnyFlowConfig | None
    prior: AnyFlowConfig | None
    likelihood: AnyLikelihoodConfig
    encoder: AnyEncoderConfig | None
    decoder: AnyDecoderConfig | None
