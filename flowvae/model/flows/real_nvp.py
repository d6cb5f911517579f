"""Real NVP: Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803, section 3."""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from flowvae.config import PositiveInt
from flowvae.model.flows.coupling import ALTERNATING, AffineCouplings, CouplingConfig
from flowvae.model.flows.family import Flow
from flowvae.model.flows.normalization import Normalization, norm_layers
from flowvae.model.flows.partitions import Halves
from flowvae.model.networks import MLP, context_terms
from flowvae.model.transforms import ComposedTransform, Transform


class RealNVPConfig(CouplingConfig):
    """2K affine couplings whose s and t are fully connected nets, arXiv:1605.08803.

    Attributes:
        num_transforms: K, pairs of couplings.
        context: whether the nets see the encoder's context; never in a prior.
        log_scale_bound: bound on |s| of each coupling.
        normalization: after each transformation.
        weight_norm: whether the nets have weight norm.
        net_batch_norm: whether the nets have batch norm.
        hidden_features: widths of the hidden layers.
    """

    flow: Literal["real_nvp"] = "real_nvp"
    hidden_features: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)] = (64,)


class RealNVP(Flow):
    """K transformations, each a pair of couplings with alternating masks.

    The first coupling of a pair moves the second block of the latent vector, the second coupling moves
    the first block, so every dimension is transformed. The blocks have D // 2 dimensions and the rest.
    The last layer of every net is initialised to zero, so the flow is initialised as the identity.
    The nets' outputs are multiplied by 1 / sqrt(2K): Adam changes all 2K couplings by about the same
    amount at each step, for any K, and without this factor deep stacks train worse than shallow ones.

    Args:
        latent_shape: shape of the latents, with D >= 2 elements.
        context_features: size of the context; ignored without `context`.
        num_transforms: K, the number of pairs.
        hidden_features: widths of the hidden layers of s and t.
        context: whether s and t depend on the encoder's context.
        log_scale_bound: bound on |s|.
        normalization: layer that normalises the latent vector after each transformation.
        weight_norm: whether s and t use weight norm.
        net_batch_norm: whether the hidden layers of s and t use batch norm.

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
        log_scale_bound: float,
        normalization: Normalization,
        weight_norm: bool,
        net_batch_norm: bool,
    ) -> None:
        super().__init__()
        latent_dim = prod(latent_shape)
        if latent_dim < 2:
            raise ValueError(
                f"expected a latent of at least 2 dimensions for real_nvp (one block conditions the other), "
                f"got {latent_dim}"
            )
        self.context_features = context_features if context else 0
        self.sizes = (latent_dim // 2, latent_dim - latent_dim // 2)
        self.log_scale_bound, self.gain = log_scale_bound, (2 * num_transforms) ** -0.5
        self.nets = nn.ModuleList(
            MLP(
                self.sizes[1 - moved],
                hidden_features,
                2 * self.sizes[moved],
                self.context_features,
                weight_norm=weight_norm,
                batch_norm=net_batch_norm,
            ).zero_last()
            for _ in range(num_transforms)
            for moved in ALTERNATING
        )
        self.norms = norm_layers(normalization, num_transforms, latent_dim)

    def forward(self, context: Tensor) -> Transform:
        nets = list(self.nets)
        terms = context_terms(nets, context if self.context_features else None)
        if not self.norms:
            return self._couplings(nets, terms)
        transforms: list[Transform] = []
        for k, norm in enumerate(self.norms):
            pair = slice(2 * k, 2 * k + 2)
            transforms += [self._couplings(nets[pair], terms[pair]), norm()]
        return ComposedTransform(transforms)

    def _couplings(self, nets: Sequence[nn.Module], terms: Sequence[Tensor | None]) -> AffineCouplings:
        return AffineCouplings(nets, terms, Halves(self.sizes), self.log_scale_bound, self.gain)
