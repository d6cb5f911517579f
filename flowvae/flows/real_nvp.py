"""Real NVP: Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803, section 3."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from flowvae.config import FlowConfig, PositiveFloat, PositiveInt
from flowvae.networks import MLP
from flowvae.transforms import ComposedTransform, Transform


class RealNVPConfig(FlowConfig):
    flow: Literal["real_nvp"]
    num_transforms: PositiveInt
    hidden_features: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)]
    context: bool
    log_scale_bound: PositiveFloat


class CouplingTransform(Transform):
    """Affine coupling of two blocks of the latent vector.

        y_kept = z_kept,  y_moved = z_moved * exp(s) + t,  (s, t) = net(z_kept, context)
        ln|det| = sum s

    arXiv:1605.08803, equations 4 to 6; s is bounded by log_scale_bound * tanh(. / log_scale_bound).

    Args:
        net: (z_kept, context) -> raw s and t, concatenated on the last axis.
        context: shape (batch, context_features), or None.
        sizes: the sizes of the two blocks.
        moved: which block is transformed, 0 or 1.
        log_scale_bound: bound on |s|.
        gain: factor on what the net returns.
    """

    has_inverse = True

    def __init__(
        self, net: MLP, context: Tensor | None, sizes: tuple[int, int], moved: int, log_scale_bound: float, gain: float
    ) -> None:
        self.net, self.context, self.gain = net, context, gain
        self.sizes, self.moved, self.log_scale_bound = sizes, moved, log_scale_bound

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        blocks = list(z.split(self.sizes, dim=-1))
        s, t = self._scale_and_shift(blocks[1 - self.moved])
        blocks[self.moved] = torch.addcmul(t, blocks[self.moved], s.exp())
        return torch.cat(blocks, dim=-1), s.sum(-1)

    def _inv(self, z: Tensor) -> Tensor:
        blocks = list(z.split(self.sizes, dim=-1))
        s, t = self._scale_and_shift(blocks[1 - self.moved])
        blocks[self.moved] = (blocks[self.moved] - t) * (-s).exp()
        return torch.cat(blocks, dim=-1)

    def _scale_and_shift(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        raw, t = (self.gain * self.net(kept, self.context)).chunk(2, dim=-1)
        return self.log_scale_bound * torch.tanh(raw / self.log_scale_bound), t


class RealNVP(nn.Module):
    """K transformations, each a pair of couplings with alternating masks.

    The first coupling of a pair moves the second block of the latent vector, the second moves the
    first, so no dimension is left untransformed; an odd D splits into blocks of D // 2 and the
    rest. The last layer of every net starts at zero: the flow starts as the identity. What a net
    returns is multiplied by 1 / sqrt(2K): Adam moves all 2K couplings by about as much at each
    step, however many there are, and without the factor deep stacks train worse than shallow ones.

    Args:
        latent_dim: D, at least 2.
        context_features: size of the context; ignored without `context`.
        num_transforms: K, the number of pairs.
        hidden_features: widths of the hidden layers of s and t.
        context: s and t see the encoder's context.
        log_scale_bound: bound on |s|.

    Raises:
        ValueError: latent_dim is below 2, where there is nothing to couple.
    """

    def __init__(
        self,
        latent_dim: int,
        context_features: int,
        *,
        num_transforms: int,
        hidden_features: Sequence[int],
        context: bool,
        log_scale_bound: float,
    ) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(
                f"expected latent_dim of at least 2 for real_nvp (one block conditions the other), got {latent_dim}"
            )
        self.context_features = context_features if context else 0
        self.sizes = (latent_dim // 2, latent_dim - latent_dim // 2)
        self.log_scale_bound, self.gain = log_scale_bound, (2 * num_transforms) ** -0.5
        self.nets = nn.ModuleList(
            MLP(self.sizes[1 - moved], hidden_features, 2 * self.sizes[moved], self.context_features).zero_last()
            for _ in range(num_transforms)
            for moved in ALTERNATING
        )

    def forward(self, context: Tensor) -> ComposedTransform:
        bound = context if self.context_features else None
        return ComposedTransform(
            [
                CouplingTransform(net, bound, self.sizes, ALTERNATING[i % 2], self.log_scale_bound, self.gain)
                for i, net in enumerate(self.nets)
            ]
        )


ALTERNATING = (1, 0)  # the block that each coupling of a pair moves
