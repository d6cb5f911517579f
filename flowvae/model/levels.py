"""Posterior and prior of a hierarchy of latent maps, as transforms of all latents together, one level after another."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from flowvae.model.networks import LadderDecoder, LadderEncoder, split_levels
from flowvae.model.parts import evaluating, used_context
from flowvae.model.transforms import Transform, affine, affine_inv, full_precision

Step = Callable[[int, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class LevelByLevel(Transform):
    """A bijection of all latents, made of one for each level, which depends on the latents of the levels before.

    Args:
        decoder: the path downwards.
        flows: of the levels.
    """

    def __init__(self, decoder: LadderDecoder, flows: nn.ModuleList) -> None:
        self.decoder, self.flows = decoder, flows

    @abstractmethod
    def step(self, level: int, value: Tensor, hidden: Tensor, loc: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Map the values of one level.

        Args:
            level: its number.
            value: shape (n, C, H, W).
            hidden: the path there, shape (n, width, H, W).
            loc, log_scale: of its prior's base, shape of value.

        Returns:
            The values, shape of value, and the log-determinants, shape (n,).
        """

    @abstractmethod
    def step_back(
        self, level: int, value: Tensor, hidden: Tensor, loc: Tensor, log_scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Invert `step`."""

    def run(self, values: Tensor, step: Step, *, latents: bool) -> tuple[Tensor, Tensor]:
        """Map the values of all levels.

        Args:
            values: shape (*sample_shape, batch, D).
            step: `step` or `step_back`.
            latents: whether the values are latents; if not, the results are.

        Returns:
            Values, shape of `values`, and log-determinants, shape (*sample_shape, batch).
        """
        rows = values.flatten(0, -2)
        given, results, ladjs = split_levels(rows, self.decoder.latent_shape), [], []

        def choose(level: int, hidden: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
            result, ladj = step(level, given[level], hidden, loc, log_scale)
            results.append(result.flatten(1))
            ladjs.append(ladj)
            return given[level] if latents else result

        self.decoder.walk(rows.shape[0], choose)
        total = torch.stack(ladjs).sum(0)
        return torch.cat(results, dim=-1).unflatten(0, values.shape[:-1]), total.unflatten(0, values.shape[:-1])


class HierarchicalPosterior(LevelByLevel):
    """Standard normal noise -> latents of images.

        z0_l = loc_l + shift + scale_l exp(log-scale) noise_l,  z_l = f_l(z0_l)

    Shift and log-scale are those of the posterior relative to the prior; at the start of training both are 0.

    Args:
        decoder: the path downwards.
        flows: of the levels.
        encoder: with the heads of the levels.
        features: of each of its stages, shape (batch, ...).
    """

    def __init__(
        self, decoder: LadderDecoder, flows: nn.ModuleList, encoder: LadderEncoder, features: Sequence[Tensor]
    ) -> None:
        super().__init__(decoder, flows)
        self.encoder, self.features = encoder, features

    @property
    def has_inverse(self) -> bool:
        flow = self.flows[0]
        with evaluating(flow):
            return bool(flow(self.features[0].new_empty(1, used_context(flow))).has_inverse)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.run(z, self.step, latents=False)

    def _inv_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.run(z, self.step_back, latents=True)

    def step(self, level: int, value: Tensor, hidden: Tensor, loc: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale, flow = self.base(level, hidden, loc, log_scale, value.dtype)
        with full_precision(value.device):
            z, ladj = flow.call_and_ladj(affine(value, log_scale, loc).flatten(1))
            return z.unflatten(1, value.shape[1:]), ladj + log_scale.flatten(1).sum(1)

    def step_back(
        self, level: int, value: Tensor, hidden: Tensor, loc: Tensor, log_scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        loc, log_scale, flow = self.base(level, hidden, loc, log_scale, value.dtype)
        with full_precision(value.device):
            z0, ladj = flow.inv_and_ladj(value.flatten(1))
            return affine_inv(z0.unflatten(1, value.shape[1:]), log_scale, loc), ladj - log_scale.flatten(1).sum(1)

    def base(
        self, level: int, hidden: Tensor, loc: Tensor, log_scale: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Transform]:
        """Loc and log-scale of a level before its flow, shape (n, C, H, W), and its flow."""
        features = self.features[self.encoder.stage_of_level[level]]
        features = features.repeat(hidden.shape[0] // max(1, features.shape[0]), 1, 1, 1)
        shift, more, context = (part.to(dtype) for part in self.encoder.heads[level](hidden, features))
        flow = self.flows[level]
        with full_precision(hidden.device):
            transform: Transform = flow(context if flow.takes_map else context.mean((2, 3)))
        return loc.to(dtype) + shift, log_scale.to(dtype) + more, transform


class HierarchicalPrior(LevelByLevel):
    """Latents -> standard normal noise: noise_l = f_l((z_l - loc_l) / scale_l)."""

    has_inverse = True

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.run(z, self.step, latents=True)

    def _inv_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.run(z, self.step_back, latents=False)

    def step(self, level: int, value: Tensor, hidden: Tensor, loc: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = loc.to(value.dtype), log_scale.to(value.dtype)
        with full_precision(value.device):
            noise, ladj = self.flow(level, value).call_and_ladj(affine_inv(value, log_scale, loc).flatten(1))
            return noise.unflatten(1, value.shape[1:]), ladj - log_scale.flatten(1).sum(1)

    def step_back(
        self, level: int, value: Tensor, hidden: Tensor, loc: Tensor, log_scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        loc, log_scale = loc.to(value.dtype), log_scale.to(value.dtype)
        with full_precision(value.device):
            z, ladj = self.flow(level, value).inv_and_ladj(value.flatten(1))
            return affine(z.unflatten(1, value.shape[1:]), log_scale, loc), ladj + log_scale.flatten(1).sum(1)

    def flow(self, level: int, like: Tensor) -> Transform:
        """The flow of a level."""
        transform: Transform = self.flows[level](like.new_empty(1, 0))
        return transform
