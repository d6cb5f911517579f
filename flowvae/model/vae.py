"""The variational autoencoder: posterior(x), likelihood(z), prior."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flowvae.config import MAX_PIXEL
from flowvae.model.distributions import DiagonalNormal, Prior, TransformedDistribution
from flowvae.model.flows import FlowConfig, NoFlowConfig
from flowvae.model.likelihoods import BernoulliConfig, Likelihood, LikelihoodConfig, as_bytes, build_output
from flowvae.model.networks import (
    ConvDecoderConfig,
    ConvEncoderConfig,
    DecoderConfig,
    EncoderConfig,
    build_decoder,
    build_encoder,
)
from flowvae.model.objectives import LogDensities, elbo, log_mean_exp
from flowvae.model.parts import check_context, check_prior, evaluating, flow_of, module_of, settings_of, used_context
from flowvae.model.settings import VAEConfig
from flowvae.model.transforms import full_precision
from flowvae.model.weights import write_model
from flowvae.randomness import seeded

MAX_LATENTS = 2000  # decoded at once


class VAE(nn.Module):
    """A latent-variable model p(x, z) = p(z) p(x|z) with an amortised posterior q(z|x).

    Each part is described by its settings, and built from them, or is a module of your own. A module of your own is
    saved with its weights alone, and is passed to `load` again.

    Args:
        image_shape: (C, H, W).
        latent_shape: (D,), or (channels, height, width) of a map, where D is the product. Latents are flat tensors in
            either case; only the flows and the networks use the shape of the map.
        posterior: flow of the posterior; a module maps context -> Transform from z0 to zK, and says in
            `context_features` how much context it uses.
        prior: flow of the prior, with an inverse; a module maps an empty context -> Transform from z to noise.
        likelihood: of the pixels.
        encoder: a module maps x (batch, C, H, W) -> loc (batch, D), scale (batch, D) > 0, context (batch, features),
            and says in `context_features` how much context it provides.
        decoder: a module maps z (*sample_shape, batch, D) -> P parameters per pixel (*sample_shape, batch, P, H, W).
        seed: of the initial weights, which depend on nothing else.

    Raises:
        ValueError: the parts do not fit each other, or the flow of the prior cannot be inverted.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_shape: tuple[int, ...],
        *,
        posterior: FlowConfig | nn.Module = NoFlowConfig(),  # noqa: B008
        prior: FlowConfig | nn.Module = NoFlowConfig(),  # noqa: B008
        likelihood: LikelihoodConfig = BernoulliConfig(),  # noqa: B008
        encoder: EncoderConfig | nn.Module = ConvEncoderConfig(),  # noqa: B008
        decoder: DecoderConfig | nn.Module = ConvDecoderConfig(),  # noqa: B008
        seed: int = 0,
    ) -> None:
        super().__init__()
        config = VAEConfig(
            image_shape=image_shape,
            latent_shape=latent_shape,
            posterior=settings_of(posterior),
            prior=settings_of(prior),
            likelihood=likelihood,
            encoder=settings_of(encoder),
            decoder=settings_of(decoder),
        )
        if config.prior is not None:
            config = config.model_copy(update={"prior": config.prior.without_context()})
        self.config, self.latent_shape, self.latent_dim = config, config.latent_shape, config.latent_dim
        output = build_output(config.likelihood, config.image_shape[0])
        self.output_to_likelihood, self.of_bits = output.likelihood, output.of_bits
        with seeded(seed):
            self._build(
                config.posterior or posterior,
                config.prior or prior,
                config.encoder or encoder,
                config.decoder or decoder,
                output.initial,
            )
        self.to(memory_format=torch.channels_last)

    def _build(
        self,
        posterior: FlowConfig | nn.Module,
        prior: FlowConfig | nn.Module,
        encoder: EncoderConfig | nn.Module,
        decoder: DecoderConfig | nn.Module,
        initial_output: Tensor,
    ) -> None:
        """Build the four parts, in an order that the initial weights depend on."""
        image_shape, latent_shape = self.config.image_shape, self.config.level
        available = used_context(encoder)
        self.posterior_flow = flow_of(posterior, latent_shape, available)
        used = used_context(self.posterior_flow)
        self.encoder = module_of(encoder, lambda settings: build_encoder(settings, image_shape, latent_shape, used))
        self.decoder = module_of(
            decoder, lambda settings: build_decoder(settings, image_shape, latent_shape, initial_output)
        )
        self.prior_flow = flow_of(prior, latent_shape, 0)
        if self.config.encoder is None:
            check_context(self.posterior_flow, available)
        check_prior(self.prior_flow, self.config.prior)

    @property
    def prior(self) -> Prior:
        """p(z), at zK."""
        like = next(self.parameters())
        return Prior(self.prior_flow(like.new_empty(1, 0)), like.new_empty(self.latent_dim))

    def posterior(self, x: Tensor) -> TransformedDistribution:
        """q(z|x) for images x, shape (batch, C, H, W). The flow runs in the precision of x, even under autocast."""
        loc, scale, context = (parameter.to(x.dtype) for parameter in self.encoder(x))
        with full_precision(x.device):
            return TransformedDistribution(DiagonalNormal(loc, scale), self.posterior_flow(context))

    def likelihood(self, z: Tensor) -> Likelihood:
        """p(x|z) for latents z, shape (*sample_shape, batch, D), in the precision of z."""
        output = self.decoder(z).to(z.dtype)
        with full_precision(z.device):
            return self.output_to_likelihood(output)

    def forward(self, x: Tensor, noise: Tensor) -> LogDensities:
        """Compute the log densities of a bound on log p(x), at reparameterized draws.

        All are computed in one call, because wrappers for data parallelism and compilation hook `forward`.

        Args:
            x: images, shape (batch, C, H, W).
            noise: standard-normal draws, shape (*sample_shape, batch, D).
        """
        posterior = self.posterior(x)
        with full_precision(x.device):
            z, log_posterior = posterior.rsample_and_log_prob(noise)
            log_prior = self.prior.log_prob(z)
        likelihood = self.likelihood(z)
        with full_precision(x.device):
            return LogDensities(likelihood.log_prob(x), log_prior, log_posterior, z, (log_posterior - log_prior)[None])

    @torch.no_grad()
    def log_prob(self, x: Tensor | np.ndarray, num_samples: int = 200) -> Tensor:
        """Estimate log p(x) by the importance-weighted bound, arXiv:1509.00519, equation 8.

        Args:
            x: images (`images`), N of them.
            num_samples: draws of z per image, from torch's generator. More give a tighter bound.

        Returns:
            Nats per image, shape (N,).

        Raises:
            ValueError: the images do not fit the model, or there is no draw.
        """
        if num_samples < 1:
            raise ValueError(f"expected num_samples of at least 1, got {num_samples}")
        images, rows = self.images(x), []
        with evaluating(self):
            for batch in images.split(max(1, MAX_LATENTS // num_samples)):
                sizes = (min(MAX_LATENTS, num_samples - start) for start in range(0, num_samples, MAX_LATENTS))
                noise = (batch.new_empty(size, len(batch), self.latent_dim).normal_() for size in sizes)
                rows.append(log_mean_exp(torch.cat([elbo(self(batch, draws)) for draws in noise])))
        return torch.cat(rows) if rows else images.new_empty(0)

    @torch.no_grad()
    def sample(self, num_images: int, *, mean: bool = False, temperature: float = 1.0) -> Tensor:
        """Draw images from the model, with torch's generator.

        Args:
            num_images: N.
            mean: whether to return the expected image of each z ~ p(z) instead of a draw from p(x|z).
            temperature: factor on the noise that the prior maps to z. Below 1, samples are less varied and often look
                better (Kingma & Dhariwal 2018, arXiv:1807.03039, section 6).

        Returns:
            Shape (N, C, H, W), values in [0, 1].

        Raises:
            ValueError: num_images or temperature is negative.
        """
        if num_images < 0:
            raise ValueError(f"expected num_images of at least 0, got {num_images}")
        if temperature < 0:
            raise ValueError(f"expected a temperature of at least 0, got {temperature}")
        with evaluating(self):
            noise = next(self.parameters()).new_empty(num_images, self.latent_dim).normal_()
            likelihood = self.likelihood(self.prior.from_noise(temperature * noise))
            return likelihood.mean if mean else likelihood.sample()

    @torch.no_grad()
    def encode(self, x: Tensor | np.ndarray) -> Tensor:
        """The mean of the posterior's base, mapped by the flow, shape (N, D); arguments and errors as of `log_prob`."""
        with evaluating(self):
            return self.posterior(self.images(x)).push_loc()

    @torch.no_grad()
    def reconstruct(self, x: Tensor | np.ndarray) -> Tensor:
        """Expected images at `encode(x)`, shape (N, C, H, W), values in [0, 1]."""
        with evaluating(self):
            return self.likelihood(self.encode(x)).mean

    def images(self, x: Tensor | np.ndarray) -> Tensor:
        """Images as the model takes them, on its device and in its precision, shape (N, C, H, W).

        Args:
            x: shape (N, C, H, W), or (N, H, W) if C is 1. For a likelihood of bits, values 0 and 1; for one of 8-bit
                values, integers from 0 to 255, or numbers k / 255.

        Raises:
            ValueError: shape or values do not fit the model.
        """
        x = self.with_channels(torch.as_tensor(x))
        pixels = as_bytes(x, of_bits=self.of_bits).to(next(self.parameters()))
        return pixels if self.of_bits else pixels / MAX_PIXEL

    def with_channels(self, x: Tensor) -> Tensor:
        """Images of shape (N, C, H, W), also if they were (N, H, W).

        Raises:
            ValueError: C, H or W are not those of the model.
        """
        shape = self.config.image_shape
        if x.dim() == 3 and shape[0] == 1:
            x = x[:, None]
        if x.dim() != 4 or x.shape[1:] != shape:
            raise ValueError(f"expected images of shape (N, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
        return x

    def save(self, folder: Path | str) -> None:
        """Write `model.safetensors` and `config.json` into a folder, which is created if necessary.

        Each file is either complete or absent.

        Raises:
            OSError: a file cannot be written.
        """
        write_model(Path(folder), self.state_dict(), self.config)
