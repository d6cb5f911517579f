"""The variational autoencoder: posterior(x), likelihood(z), prior."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowvae.config import Config, ImageShape, LatentShape
from flowvae.model.distributions import DiagonalNormal, StandardNormal, TransformedDistribution
from flowvae.model.flows import AnyFlowConfig, build_flow
from flowvae.model.likelihoods import AnyLikelihoodConfig, Likelihood, build_output
from flowvae.model.networks import AnyDecoderConfig, AnyEncoderConfig, build_decoder, build_encoder


class VAE(nn.Module):
    """A latent-variable model p(x, z) = p(z) p(x|z) with an amortised posterior q(z|x).

    Args:
        encoder: x (batch, C, H, W) -> loc, scale (batch, D), context (batch, context_features).
        flow: context -> Transform from z0 to zK.
        decoder: z (*sample_shape, batch, D) -> P parameters per pixel (*sample_shape, batch, P, H, W).
        latent_shape: (D,), or (channels, height, width) of a map, where D is the product. Latents are flat tensors in
            either case; only the flow and the networks use the shape of the map.
        output_to_likelihood: maps the decoder's output to p(x|z).
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
        """q(z|x) for images x, shape (batch, C, H, W). The flow runs in the precision of x, even under autocast."""
        loc, scale, context = (parameter.to(x.dtype) for parameter in self.encoder(x))
        with torch.autocast(x.device.type, enabled=False):
            return TransformedDistribution(DiagonalNormal(loc, scale), self.flow(context))

    def likelihood(self, z: Tensor) -> Likelihood:
        """p(x|z) for latents z, shape (*sample_shape, batch, D), in the precision of z."""
        output = self.decoder(z).to(z.dtype)
        with torch.autocast(z.device.type, enabled=False):
            return self.output_to_likelihood(output)

    def forward(self, x: Tensor, noise: Tensor) -> "LogDensities":
        """Compute the log densities of a bound on log p(x), at reparameterized draws.

        All are computed in one call, because wrappers for data parallelism and compilation hook `forward`.

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
    """log p(x|z), log p(z) and log q(z|x) in nats, shape (*sample_shape, batch), and z (*sample_shape, batch, D)."""

    log_likelihood: Tensor
    log_prior: Tensor
    log_posterior: Tensor
    z: Tensor


class ModelConfig(Config):
    """Settings of a VAE except its flow."""

    latent_shape: LatentShape
    likelihood: AnyLikelihoodConfig
    encoder: AnyEncoderConfig
    decoder: AnyDecoderConfig


class VAEConfig(Config):
    """Everything that determines the layers of a VAE and their sizes."""

    model: ModelConfig
    flow: AnyFlowConfig
    image_shape: ImageShape


def build_vae(config: VAEConfig, *, seed: int) -> VAE:
    """Build a VAE with initial weights, which depend only on the arguments.

    Args:
        config: networks, flow, likelihood, and the images' (channels, height, width).
        seed: of the initial weights.

    Raises:
        ValueError: the settings do not fit each other (image size, latent shape).
    """
    model, image_shape = config.model, config.image_shape
    output = build_output(model.likelihood, image_shape[0])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the generators of all GPUs
        flow = build_flow(config.flow, model.latent_shape, model.encoder.context_features)
        encoder = build_encoder(model.encoder, image_shape, model.latent_shape, flow.context_features)
        decoder = build_decoder(model.decoder, image_shape, model.latent_shape, output.initial)
    vae = VAE(encoder, flow, decoder, model.latent_shape, output.likelihood)
    return vae.to(memory_format=torch.channels_last)
