"""Real NVP: Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803, section 3."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from flowvae.config import FlowConfig, PositiveFloat, PositiveInt
from flowvae.networks import MLP, context_terms
from flowvae.transforms import Transform


class RealNVPConfig(FlowConfig):
    flow: Literal["real_nvp"]
    num_transforms: PositiveInt
    hidden_features: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)]
    context: bool
    log_scale_bound: PositiveFloat


class CouplingStack(Transform):
    """Affine couplings of the two blocks of the latent vector, which take turns.

        y_kept = z_kept,  y_moved = z_moved * exp(s) + t,  (s, t) = net(z_kept, context)
        ln|det| = sum s

    arXiv:1605.08803, equations 4 to 6; s is bounded by log_scale_bound * tanh(. / log_scale_bound).
    The blocks stay apart from the first coupling to the last, and what the context adds to the nets
    is computed for all of them at once.

    Args:
        nets: for each coupling z_kept -> raw s and t, concatenated on the last axis.
        context: shape (batch, context_features), or None.
        sizes: the sizes of the two blocks.
        log_scale_bound: bound on |s|.
        gain: factor on what the nets return.
    """

    has_inverse = True

    def __init__(
        self, nets: Sequence[MLP], context: Tensor | None, sizes: tuple[int, int], log_scale_bound: float, gain: float
    ) -> None:
        self.nets, self.sizes, self.log_scale_bound, self.gain = nets, sizes, log_scale_bound, gain
        self.context_terms = context_terms(nets, context)

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        blocks = list(z.split(self.sizes, dim=-1))
        log_scales = [torch.zeros_like(block) for block in blocks]  # summed over couplings
        for i in range(len(self.nets)):
            moved = ALTERNATING[i % 2]
            s, t = self.scale_and_shift(i, blocks[1 - moved])
            blocks[moved] = torch.addcmul(t, blocks[moved], s.exp())
            log_scales[moved] = log_scales[moved] + s
        return torch.cat(blocks, dim=-1), torch.cat(log_scales, dim=-1).sum(-1)

    def _inv(self, z: Tensor) -> Tensor:
        blocks = list(z.split(self.sizes, dim=-1))
        for i in reversed(range(len(self.nets))):
            moved = ALTERNATING[i % 2]
            s, t = self.scale_and_shift(i, blocks[1 - moved])
            blocks[moved] = (blocks[moved] - t) * (-s).exp()
        return torch.cat(blocks, dim=-1)

    def scale_and_shift(self, i: int, kept: Tensor) -> tuple[Tensor, Tensor]:
        """s and t of coupling i, each of the shape of the block that it moves."""
        raw, t = (self.gain * self.nets[i](kept, self.context_terms[i])).chunk(2, dim=-1)
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

    def forward(self, context: Tensor) -> CouplingStack:
        bound = context if self.context_features else None
        return CouplingStack(self.nets, bound, self.sizes, self.log_scale_bound, self.gain)


ALTERNATING = (1, 0)  # the block that each coupling of a pair moves
