"""Couplings by rational-quadratic splines: Durkan et al. 2019, arXiv:1906.04032, section 3.2."""

from collections.abc import Sequence
from math import prod
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from flowvae.config import NumTransforms, PositiveFloat, PositiveInt
from flowvae.model.flows.coupling import ALTERNATING, CouplingStack
from flowvae.model.flows.family import Flow, FlowConfig
from flowvae.model.flows.partitions import Halves, Partition
from flowvae.model.flows.spline import num_parameters, spline, spline_inv
from flowvae.model.networks import MLP, context_terms


class SplineCouplingConfig(FlowConfig):
    """2K couplings by rational-quadratic splines, arXiv:1906.04032.

    Attributes:
        num_transforms: K, pairs of couplings.
        hidden_features: widths of the hidden layers.
        context: whether the nets see the encoder's context; never in a prior.
        num_bins: of each spline.
        bound: a spline maps the interval from -bound to bound to itself, and is the identity outside.
    """

    context_field: ClassVar[str] = "context"

    flow: Literal["spline_coupling"] = "spline_coupling"
    num_transforms: NumTransforms
    hidden_features: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)] = (64,)
    context: bool = True
    num_bins: Annotated[int, Field(ge=2)] = 8
    bound: PositiveFloat = 5.0


class SplineCouplings(CouplingStack):
    """Couplings that move every element by a spline, whose parameters depend on the other block.

    Args:
        nets: one per coupling, with 3 num_bins - 1 outputs per element that it moves.
        context_terms, partition, gain: as for `CouplingStack`.
        num_bins, bound: of the splines.
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        context_terms: Sequence[Tensor | None],
        partition: Partition,
        gain: float,
        num_bins: int,
        bound: float,
    ) -> None:
        super().__init__(nets, context_terms, partition, gain)
        self.num_outputs, self.bound = num_parameters(num_bins), bound

    def move(self, i: int, block: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        return spline(self._parameters(i, kept), block, self.bound)

    def move_back(self, i: int, block: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        return spline_inv(self._parameters(i, kept), block, self.bound)

    def _parameters(self, i: int, kept: Tensor) -> Tensor:
        return self.output(i, kept).unflatten(-1, (-1, self.num_outputs))


class SplineCoupling(Flow):
    """K transformations, each a pair of spline couplings with alternating masks; initialised as the identity.

    Blocks, nets and their gain of 1 / sqrt(2K) are those of `RealNVP`.

    Args:
        latent_shape: shape of the latents, with D >= 2 elements.
        context_features: size of the context; ignored without `context`.
        num_transforms: K, the number of pairs.
        hidden_features: widths of the hidden layers.
        context: whether the splines depend on the encoder's context.
        num_bins: bins of a spline.
        bound: end of the interval outside which a spline is the identity.

    Raises:
        ValueError: D is less than 2, so there are no two blocks.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        context_features: int,
        *,
        num_transforms: int,
        hidden_features: Sequence[int],
        context: bool,
        num_bins: int,
        bound: float,
    ) -> None:
        super().__init__()
        latent_dim = prod(latent_shape)
        if latent_dim < 2:
            raise ValueError(
                f"expected a latent of at least 2 dimensions for spline_coupling (one block conditions the other), "
                f"got {latent_dim}"
            )
        self.context_features = context_features if context else 0
        self.sizes = (latent_dim // 2, latent_dim - latent_dim // 2)
        self.num_bins, self.bound, self.gain = num_bins, bound, (2 * num_transforms) ** -0.5
        self.nets = nn.ModuleList(
            MLP(
                self.sizes[1 - moved],
                hidden_features,
                num_parameters(num_bins) * self.sizes[moved],
                self.context_features,
            ).zero_last()
            for _ in range(num_transforms)
            for moved in ALTERNATING
        )

    def forward(self, context: Tensor) -> SplineCouplings:
        nets = list(self.nets)
        terms = context_terms(nets, context if self.context_features else None)
        return SplineCouplings(nets, terms, Halves(self.sizes), self.gain, self.num_bins, self.bound)
