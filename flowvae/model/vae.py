"""The variational autoencoder: posterior(x), likelihood(z), prior."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from flowvae.config import MAX_PIXEL, Config
from flowvae.errors import InputError
from flowvae.model.distributions import DiagonalNormal, Prior, TransformedDistribution
from flowvae.model.flows import FlowConfig, NoFlowConfig, build_flow
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
from flowvae.model.settings import VAEConfig
from flowvae.model.weights import CONFIG, WEIGHTS, read_model, write_model

C = TypeVar("C", bound=Config)

PARTS = ("encoder", "decoder", "posterior", "prior")  # which may be modules of the user's own
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
        if isinstance(prior, FlowConfig):
            prior = prior.without_context()
        self.config = VAEConfig(
            image_shape=image_shape,
            latent_shape=latent_shape,
            posterior=settings_of(posterior),
            prior=settings_of(prior),
            likelihood=likelihood,
            encoder=settings_of(encoder),
            decoder=settings_of(decoder),
        )
        self.latent_shape, self.latent_dim = self.config.latent_shape, prod(self.config.latent_shape)
        image_shape, latent_shape = self.config.image_shape, self.config.latent_shape
        output = build_output(likelihood, image_shape[0])
        self.output_to_likelihood, self.of_bits = output.likelihood, output.of_bits
        with seeded(seed):
            available = encoder.context_features if isinstance(encoder, EncoderConfig) else used_context(encoder)
            self.posterior_flow = flow_of(posterior, latent_shape, available)
            used = used_context(self.posterior_flow)
            self.encoder = (
                encoder if isinstance(encoder, nn.Module) else build_encoder(encoder, image_shape, latent_shape, used)
            )
            self.decoder = (
                decoder
                if isinstance(decoder, nn.Module)
                else build_decoder(decoder, image_shape, latent_shape, output.initial)
            )
            self.prior_flow = flow_of(prior, latent_shape, 0)
        check_prior(self.prior_flow, prior)
        self.to(memory_format=torch.channels_last)

    @property
    def prior(self) -> Prior:
        """p(z), at zK."""
        like = next(self.parameters())
        return Prior(self.prior_flow(like.new_empty(1, 0)), like.new_empty(self.latent_dim))

    def posterior(self, x: Tensor) -> TransformedDistribution:
        """q(z|x) for images x, shape (batch, C, H, W). The flow runs in the precision of x, even under autocast."""
        loc, scale, context = (parameter.to(x.dtype) for parameter in self.encoder(x))
        with torch.autocast(x.device.type, enabled=False):
            return TransformedDistribution(DiagonalNormal(loc, scale), self.posterior_flow(context))

    def likelihood(self, z: Tensor) -> Likelihood:
        """p(x|z) for latents z, shape (*sample_shape, batch, D), in the precision of z."""
        output = self.decoder(z).to(z.dtype)
        with torch.autocast(z.device.type, enabled=False):
            return self.output_to_likelihood(output)

    def forward(self, x: Tensor, noise: Tensor) -> LogDensities:
        """Compute the log densities of a bound on log p(x), at reparameterized draws.

        All are computed in one call, because wrappers for data parallelism and compilation hook `forward`.

        Args:
            x: images, shape (batch, C, H, W).
            noise: standard-normal draws, shape (*sample_shape, batch, D).
        """
        posterior = self.posterior(x)
        with torch.autocast(x.device.type, enabled=False):
            z, log_posterior = posterior.rsample_and_log_prob(noise)
            log_prior = self.prior.log_prob(z)
        likelihood = self.likelihood(z)
        with torch.autocast(x.device.type, enabled=False):
            return LogDensities(likelihood.log_prob(x), log_prior, log_posterior, z)

    @torch.no_grad()
    def log_prob(self, x: Tensor | np.ndarray, num_samples: int = 200) -> Tensor:
        """Estimate log p(x) by the importance-weighted bound, arXiv:1509.00519, equation 8.

        Args:
            x: images (`images`), N of them.
            num_samples: draws of z per image, from torch's generator. More give a tighter bound.

        Returns:
            Nats per image, shape (N,).

        Raises:
            ValueError: the images do not fit the model.
        """
        images, rows = self.images(x), []
        with evaluating(self):
            for batch in images.split(max(1, MAX_LATENTS // num_samples)):
                sizes = (min(MAX_LATENTS, num_samples - start) for start in range(0, num_samples, MAX_LATENTS))
                noise = (batch.new_empty(size, len(batch), self.latent_dim).normal_() for size in sizes)
                rows.append(log_mean_exp(torch.cat([elbo(self(batch, draws)) for draws in noise])))
        return torch.cat(rows) if rows else images.new_empty(0)

    @torch.no_grad()
    def sample(self, num_images: int, *, mean: bool = False) -> Tensor:
        """Draw images from the model, with torch's generator.

        Args:
            num_images: N.
            mean: whether to return the expected image of each z ~ p(z) instead of a draw from p(x|z).

        Returns:
            Shape (N, C, H, W), values in [0, 1].
        """
        with evaluating(self):
            likelihood = self.likelihood(self.prior.sample(torch.Size((num_images,))))
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


def load(folder: Path | str, device: torch.device | str = "cpu", **modules: nn.Module) -> VAE:
    """Load a VAE that `VAE.save` wrote.

    Args:
        folder: the folder passed to `save`.
        device: device of the weights.
        modules: those of your own that the model was built with, by the names of VAE's arguments, with any weights.

    Returns:
        The VAE in the precision in which it was saved, in evaluation mode.

    Raises:
        InputError: a file is missing or damaged, the two do not fit each other, or a module is missing.
    """
    folder = Path(folder)
    config, weights = read_model(folder)
    own = {name for name in PARTS if getattr(config, name) is None}
    if own != modules.keys():
        expected, got = (", ".join(sorted(names)) or "no module" for names in (own, modules))
        raise InputError(
            f"{folder / CONFIG}: expected the modules that the model was built with as arguments of load ({expected}), "
            f"got {got}"
        )
    try:
        vae = build_vae(config, seed=0, **modules)
    except ValueError as error:
        raise InputError(
            f"{folder / CONFIG}: no model can be built from it ({error}); train the variant again"
        ) from error
    vae.to(next((value.dtype for value in weights.values() if value.is_floating_point()), torch.float32))
    try:
        vae.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{folder / WEIGHTS}: does not fit {CONFIG} or this version of flowvae; train the variant again"
        ) from error
    return vae.to(device).eval()


def build_vae(config: VAEConfig, *, seed: int, **modules: nn.Module) -> VAE:
    """Build a VAE with initial weights, which depend only on the arguments.

    Args:
        config: of all parts.
        seed: of the initial weights.
        modules: the parts that are None in the config, by name.

    Raises:
        ValueError: the settings do not fit each other.
    """
    return VAE(**{name: getattr(config, name) for name in VAEConfig.model_fields} | modules, seed=seed)


def flow_of(part: FlowConfig | nn.Module, latent_shape: tuple[int, ...], context_features: int) -> nn.Module:
    """The flow that settings describe, or the module itself.

    Raises:
        ValueError: the settings do not fit the latent shape, or ask for a context that there is not.
    """
    if isinstance(part, nn.Module):
        return part
    field = part.context_field
    if not context_features and field is not None and getattr(part, field):
        raise ValueError(
            f"expected an encoder that provides a context for {part.flow}, or {field}=False; "
            f"the attribute context_features of the encoder says how much it provides"
        )
    return build_flow(part, latent_shape, context_features)


def settings_of(part: C | nn.Module) -> C | None:
    """The settings of a part; None for a module of the user's own."""
    return None if isinstance(part, nn.Module) else part


def used_context(module: nn.Module) -> int:
    """The size of the context that a module uses or provides."""
    return int(getattr(module, "context_features", 0))


def check_prior(flow: nn.Module, part: FlowConfig | nn.Module) -> None:
    """Raise ValueError unless the flow of a prior can be inverted, without which it cannot be sampled."""
    with evaluating(flow):
        has_inverse = flow(torch.empty(1, 0)).has_inverse
    if not has_inverse:
        name = part.flow if isinstance(part, FlowConfig) else type(flow).__name__
        raise ValueError(
            f"expected a flow with an inverse in the prior, from which it is sampled; {name} has none and fits a "
            f"posterior only"
        )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A context in which the CPU's generator starts from a seed, and after which all generators are as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the generators of all GPUs
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A context in which a module is in evaluation mode."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
