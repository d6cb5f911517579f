"""A hierarchy of latent maps, with a flow per level in the posterior and in the prior.

    q(z|x) = prod_l q(z_l | z_<l, x),  p(z) = prod_l p(z_l | z_<l),  from the smallest map, l = 1

Kingma et al. 2016, arXiv:1606.04934, section 4 and appendix C, and Vahdat & Kautz 2020, arXiv:2007.03898, equations 1
to 4. In each level, the posterior's flow maps a normal variable to z_l, given the image. The prior's flow maps
(z_l - loc) / scale to noise, where loc and scale follow from the levels before.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from flowvae.config import MapShape
from flowvae.model.distributions import DiagonalNormal, Prior, TransformedDistribution, log_standard_normal
from flowvae.model.flows import FlowConfig, NoFlowConfig
from flowvae.model.levels import HierarchicalPosterior, HierarchicalPrior
from flowvae.model.likelihoods import BernoulliConfig, LikelihoodConfig
from flowvae.model.networks import (
    DecoderConfig,
    EncoderConfig,
    LadderDecoder,
    LadderDecoderConfig,
    LadderEncoder,
    LadderEncoderConfig,
    build_decoder,
    build_encoder,
    split_levels,
)
from flowvae.model.objectives import LogDensities
from flowvae.model.parts import check_prior, flow_of, used_context
from flowvae.model.transforms import full_precision
from flowvae.model.vae import VAE


class HierarchicalVAE(VAE):
    """A VAE with several levels of latent maps, and a flow in posterior and prior of each level.

    Args:
        image_shape: (C, H, W).
        latent_shape: (channels, height, width) of each level, from the smallest map. Latents are flat tensors, in which
            the levels follow each other.
        posterior: flow of each level's posterior. The context is a map if the flow takes one (`conv_real_nvp`), else
            its mean over positions.
        prior: flow of each level's prior, with an inverse.
        likelihood: of the pixels.
        encoder, decoder: a ladder each.
        seed: of the initial weights, which depend on nothing else.

    Raises:
        ValueError: the parts do not fit each other, or the flow of the prior cannot be inverted.
    """

    encoder: LadderEncoder
    decoder: LadderDecoder
    posterior_flow: nn.ModuleList
    prior_flow: nn.ModuleList

    def __init__(
        self,
        image_shape: MapShape,
        latent_shape: Sequence[MapShape],
        *,
        posterior: FlowConfig = NoFlowConfig(),  # noqa: B008
        prior: FlowConfig = NoFlowConfig(),  # noqa: B008
        likelihood: LikelihoodConfig = BernoulliConfig(),  # noqa: B008
        encoder: EncoderConfig = LadderEncoderConfig(),  # noqa: B008
        decoder: DecoderConfig = LadderDecoderConfig(),  # noqa: B008
        seed: int = 0,
    ) -> None:
        super().__init__(
            image_shape,
            latent_shape,  # type: ignore[arg-type]  # of several levels
            posterior=posterior,
            prior=prior,
            likelihood=likelihood,
            encoder=encoder,
            decoder=decoder,
            seed=seed,
        )

    def _build(self, posterior: Any, prior: Any, encoder: Any, decoder: Any, initial_output: Tensor) -> None:
        image_shape, levels = self.config.image_shape, self.config.levels
        if any(isinstance(part, nn.Module) for part in (posterior, prior, encoder, decoder)):
            raise ValueError("expected settings of all parts of a hierarchy of latents, got a module")
        flows = [flow_of(posterior, level, encoder.context_features) for level in levels]
        networks = (
            build_encoder(encoder, image_shape, levels, max(used_context(flow) for flow in flows)),
            build_decoder(decoder, image_shape, levels, initial_output),
        )
        if tuple(encoder.channels) != tuple(decoder.channels[::-1]):
            raise ValueError(
                f"expected the decoder's channels to be those of the encoder in reverse, "
                f"{list(encoder.channels[::-1])}, got {list(decoder.channels)}"
            )
        self.posterior_flow = nn.ModuleList(flows)
        self.encoder, self.decoder = cast("tuple[LadderEncoder, LadderDecoder]", networks)
        self.prior_flow = nn.ModuleList(flow_of(prior, level, 0) for level in levels)
        check_prior(self.prior_flow[0], self.config.prior)

    @property
    def prior(self) -> Prior:
        return Prior(HierarchicalPrior(self.decoder, self.prior_flow), self.start.new_empty(self.latent_dim))

    @property
    def start(self) -> Tensor:
        """Where the path downwards begins."""
        return self.decoder.get_parameter("start")

    def posterior(self, x: Tensor) -> TransformedDistribution:
        noise = x.new_zeros(x.shape[0], self.latent_dim)
        base = DiagonalNormal(noise, torch.ones_like(noise))
        return TransformedDistribution(base, self.posterior_transform(x))

    def posterior_transform(self, x: Tensor) -> "HierarchicalPosterior":
        """The map from noise to latents, given images."""
        return HierarchicalPosterior(self.decoder, self.posterior_flow, self.encoder, self.encoder(x))

    def forward(self, x: Tensor, noise: Tensor) -> LogDensities:
        """Compute what `VAE.forward` does, in one walk down the levels instead of three."""
        posterior, prior = self.posterior_transform(x), HierarchicalPrior(self.decoder, self.prior_flow)
        rows, latents, log_posteriors, log_priors = noise.flatten(0, -2), [], [], []
        given = split_levels(rows, self.decoder.latent_shape)

        def choose(level: int, *path: Tensor) -> Tensor:
            z, ladj = posterior.step(level, given[level], *path)
            log_posteriors.append(log_standard_normal(given[level].flatten(1)) - ladj)
            base, ladj = prior.step(level, z, *path)
            log_priors.append(log_standard_normal(base.flatten(1)) + ladj)
            latents.append(z.flatten(1))
            return z

        output = self.decoder.to_image(self.decoder.walk(len(rows), choose)).to(noise.dtype)
        shape = noise.shape[:-1]
        with full_precision(x.device):
            log_likelihood = self.output_to_likelihood(output.unflatten(0, shape)).log_prob(x)
        z = torch.cat(latents, dim=1).unflatten(0, shape)
        log_prior, log_posterior = (torch.stack(terms).unflatten(1, shape) for terms in (log_priors, log_posteriors))
        return LogDensities(log_likelihood, log_prior.sum(0), log_posterior.sum(0), z, log_posterior - log_prior)
