"""The variational autoencoder: posterior(x), likelihood(z), prior."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowvae.config import Config, ImageShape, ModelConfig
from flowvae.distributions import DiagonalNormal, StandardNormal, TransformedDistribution
from flowvae.flows import AnyFlowConfig, build_flow
from flowvae.likelihoods import Bernoulli
from flowvae.networks import ConvDecoder, ConvEncoder


class VAE(nn.Module):
    """A latent-variable model p(x, z) = p(z) p(x|z) with an amortised posterior q(z|x).

    Args:
        encoder: x (batch, C, H, W) -> loc, scale (batch, D), context (batch, context_features).
        flow: context -> Transform from z0 to zK.
        decoder: z (*sample_shape, batch, D) -> logits (*sample_shape, batch, C, H, W).
        latent_dim: D.
    """

    def __init__(self, encoder: nn.Module, flow: nn.Module, decoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.encoder, self.flow, self.decoder, self.latent_dim = encoder, flow, decoder, latent_dim
        self.prior = StandardNormal()  # at zK

    def posterior(self, x: Tensor) -> TransformedDistribution:
        """q(z|x) for images x, shape (batch, C, H, W). The flow has the precision of x, under autocast too."""
        loc, scale, context = (parameter.to(x.dtype) for parameter in self.encoder(x))
        with torch.autocast(x.device.type, enabled=False):
            return TransformedDistribution(DiagonalNormal(loc, scale), self.flow(context))

    def likelihood(self, z: Tensor) -> Bernoulli:
        """p(x|z) for latents z, shape (*sample_shape, batch, D), in the precision of z."""
        return Bernoulli(self.decoder(z).to(z.dtype))

    def forward(self, x: Tensor, noise: Tensor) -> "LogDensities":
        """Every log density that a bound on log p(x) is made of, at reparameterized draws.

        One call, so that wrappers which hook `forward` (data parallelism, compilation) see it all.

        Args:
            x: images, shape (batch, C, H, W).
            noise: standard-normal draws, shape (*sample_shape, batch, D).
        """
        posterior = self.posterior(x)
        with torch.autocast(x.device.type, enabled=False):
            z, log_posterior = posterior.rsample_and_log_prob(noise)
        return LogDensities(self.likelihood(z).log_prob(x), self.prior.log_prob(z), log_posterior, z)


class LogDensities(NamedTuple):
    """log p(x|z), log p(z), log q(z|x) in nats, shape (*sample_shape, batch), and z itself."""

    log_likelihood: Tensor
    log_prior: Tensor
    log_posterior: Tensor
    z: Tensor


class VAEConfig(Config):
    """All that the shape of a VAE depends on."""

    model: ModelConfig
    flow: AnyFlowConfig
    image_shape: ImageShape


def build_vae(config: VAEConfig, *, seed: int) -> VAE:
    """A freshly initialized VAE, the same for the same arguments.

    Args:
        config: networks, flow, and the images' (channels, height, width).
        seed: of the initial weights.

    Raises:
        ValueError: the settings do not fit each other (image size, latent size).
    """
    model = config.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = build_flow(config.flow, (model.latent_dim,), model.encoder.context_features)
        encoder = ConvEncoder(
            config.image_shape,
            model.encoder.channels,
            model.encoder.hidden_features,
            model.latent_dim,
            flow.context_features,
        )
        decoder = ConvDecoder(
            config.image_shape, model.decoder.channels, model.decoder.hidden_features, model.latent_dim
        )
    return VAE(encoder, flow, decoder, model.latent_dim).to(memory_format=torch.channels_last)
