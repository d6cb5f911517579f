"""Affine autoregressive flows: Kingma et al. 2016, arXiv:1606.04934; Papamakarios et al. 2017, arXiv:1705.07057."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from flowvae.config import PositiveFloat, PositiveInt
from flowvae.model.flows.autoregressive_stack import AutoregressiveFlow, AutoregressiveStack
from flowvae.model.flows.family import FlowConfig
from flowvae.model.transforms import affine, affine_inv, bounded


class AffineAutoregressiveConfig(FlowConfig):
    flow: Literal["autoregressive"]
    num_transforms: PositiveInt
    hidden_features: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)]
    context: bool
    log_scale_bound: PositiveFloat


class AffineAutoregressive(AutoregressiveStack):
    """y_d = z_d exp(s_d) + t_d with s and t of the elements before d; ln|det| = sum s.

    As in a coupling, s is bounded by log_scale_bound * tanh(. / log_scale_bound). Like the gate of arXiv:1606.04934,
    equation 14, the bound keeps deep stacks stable, and unlike the gate it allows the identity.

    Args:
        nets: with two outputs per element, raw s and t.
        context_terms, degrees, gain: as for `AutoregressiveStack`.
        log_scale_bound: bound on |s|.
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        context_terms: Sequence[Tensor | None],
        degrees: Tensor,
        gain: float,
        log_scale_bound: float,
    ) -> None:
        super().__init__(nets, context_terms, degrees, gain)
        self.log_scale_bound = log_scale_bound

    def move(self, parameters: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        raw, t = parameters.unbind(-1)
        s = bounded(raw, self.log_scale_bound)
        return affine(z, s, t), s

    def move_back(self, parameters: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        raw, t = parameters.unbind(-1)
        s = bounded(raw, self.log_scale_bound)
        return affine_inv(z, s, t), -s


class AffineAutoregressiveFlow(AutoregressiveFlow):
    """K affine autoregressive transformations; initialised as the identity.

    Args:
        latent_shape, context_features, num_transforms, hidden_features, context: as for `AutoregressiveFlow`.
        log_scale_bound: bound on |s|.
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
    ) -> None:
        super().__init__(
            latent_shape,
            context_features,
            num_transforms=num_transforms,
            hidden_features=hidden_features,
            context=context,
            num_outputs=2,
        )
        self.log_scale_bound = log_scale_bound

    def forward(self, context: Tensor) -> AffineAutoregressive:
        terms = self.context_terms(context)
        return AffineAutoregressive(list(self.nets), terms, self.degrees, self.gain, self.log_scale_bound)
