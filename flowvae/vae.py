"""The variational autoencoder: posterior(x), likelihood(z), prior."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowvae.config import Config, ImageShape, LatentShape
from flowvae.distributions import DiagonalNormal, StandardNormal, TransformedDistribution
from flowvae.flows import AnyFlowConfig, build_flow
from flowvae.likelihoods import AnyLikelihoodConfig, Likelihood, build_output
from flowvae.networks import DecoderConfig, EncoderConfig, build_decoder, build_encoder


class VAE(nn.Module):
    """A latent-variable model p(x, z) = p(z) p(x|z) with an amortised posterior q(z|x).

    Args:
        encoder: x (batch, C, H, W) -> loc, scale (batch, D), context (batch, context_features).
        flow: context -> Transform from z0 to zK.
        decoder: z (*sample_shape, batch, D) -> P parameters per pixel (*sample_shape, batch, P, H, W).
        latent_shape: (D,), or (channels, height, width) of a map. Latents are flat all the same: the flow and the
            networks know the map, and D is its product.
        output_to_likelihood: p(x|z), given what the decoder returns.
    """

    def __init__(
        self,
        encoder: nn.Module,
        flow: nn.Module,
        decoder: nn.Module,
        latent_shape: tuple[int, ...],
        output_to_likelihood: Callable[[Tensor], Likelihood],
    ) -> None:
        super().__init__()
        self.encoder, self.flow, self.decoder = encoder, flow, decoder
        self.latent_shape, self.latent_dim = latent_shape, prod(latent_shape)
        self.output_to_likelihood = output_to_likelihood
        self.prior = StandardNormal()  # at zK

    def posterior(self, x: Tensor) -> TransformedDistribution:
        """q(z|x) for images x, shape (batch, C, H, W). The flow has the precision of x, under autocast too."""
        loc, scale, context = (parameter.to(x.dtype) for parameter in self.encoder(x))
        with torch.autocast(x.device.type, enabled=False):
            return TransformedDistribution(DiagonalNormal(loc, scale), self.flow(context))

    def likelihood(self, z: Tensor) -> Likelihood:
        """p(x|z) for latents z, shape (*sample_shape, batch, D), in the precision of z."""
        output = self.decoder(z).to(z.dtype)
        with torch.autocast(z.device.type, enabled=False):
            return self.output_to_likelihood(output)

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
        likelihood = self.likelihood(z)
        with torch.autocast(x.device.type, enabled=False):
            return LogDensities(likelihood.log_prob(x), self.prior.log_prob(z), log_posterior, z)


class LogDensities(NamedTuple):
    """log p(x|z), log p(z), log q(z|x) in nats, shape (*sample_shape, batch), and z itself."""

    log_likelihood: Tensor
    log_prior: Tensor
    log_posterior: Tensor
    z: Tensor


class ModelConfig(Config):
    """All of a VAE but its flow."""

    latent_shape: LatentShape
    likelihood: AnyLikelihoodConfig
    encoder: EncoderConfig
    decoder: DecoderConfig


class VAEConfig(Config):
    """All that the shape of a VAE depends on."""

    model: ModelConfig
    flow: AnyFlowConfig
    image_shape: ImageShape


def build_vae(config: VAEConfig, *, seed: int) -> VAE:
    """A freshly initialized VAE, the same for the same arguments.

    Args:
        config: networks, flow, likelihood, and the images' (channels, height, width).
        seed: of the initial weights.

    Raises:
        ValueError: the settings do not fit each other (image size, latent shape).
    """
    model, image_shape = config.model, config.image_shape
    output = build_output(model.likelihood, image_shape[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = build_flow(config.flow, model.latent_shape, model.encoder.context_features)
        encoder = build_encoder(model.encoder, image_shape, model.latent_shape, flow.context_features)
        decoder = build_decoder(model.decoder, image_shape, model.latent_shape, output.initial)
    vae = VAE(encoder, flow, decoder, model.latent_shape, output.likelihood)
    return vae.to(memory_format=torch.channels_last)
