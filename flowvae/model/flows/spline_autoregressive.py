"""Autoregressive transformations by rational-quadratic splines: Durkan et al. 2019, arXiv:1906.04032, section 3.2."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from flowvae.config import NumTransforms, PositiveFloat, PositiveInt
from flowvae.model.flows.autoregressive_stack import AutoregressiveFlow, AutoregressiveStack
from flowvae.model.flows.family import FlowConfig
from flowvae.model.flows.spline import num_parameters, spline, spline_inv


class SplineAutoregressiveConfig(FlowConfig):
    """K maps by rational-quadratic splines that depend on the elements before, arXiv:1906.04032.

    The inverse takes D passes.

    Attributes:
        num_transforms: K.
        hidden_features: widths of the hidden layers.
        context: whether the nets see the encoder's context; never in a prior.
        num_bins: of each spline.
        bound: a spline maps the interval from -bound to bound to itself, and is the identity outside.
    """

    context_field: ClassVar[str] = "context"

    flow: Literal["spline_autoregressive"] = "spline_autoregressive"
    num_transforms: NumTransforms
    hidden_features: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)] = (64,)
    context: bool = True
    num_bins: Annotated[int, Field(ge=2)] = 8
    bound: PositiveFloat = 5.0


class SplineAutoregressive(AutoregressiveStack):
    """Every element is moved by a spline, whose parameters depend on the elements before it.

    Args:
        nets: with 3 num_bins - 1 outputs per element.
        context_terms, degrees: as for `AutoregressiveStack`.
        bound: of the splines.
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        context_terms: Sequence[Tensor | None],
        degrees: Tensor,
        bound: float,
    ) -> None:
        super().__init__(nets, context_terms, degrees)
        self.bound = bound

    def move(self, parameters: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return spline(parameters.mT, z, self.bound)

    def move_back(self, parameters: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return spline_inv(parameters.mT, z, self.bound)


class SplineAutoregressiveFlow(AutoregressiveFlow):
    """K autoregressive transformations by splines; initialised as the identity.

    Args:
        latent_shape, context_features, num_transforms, hidden_features, context: as for `AutoregressiveFlow`.
        num_bins: bins of a spline.
        bound: end of the interval outside which a spline is the identity.
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
        super().__init__(
            latent_shape,
            context_features,
            num_transforms=num_transforms,
            hidden_features=hidden_features,
            context=context,
            scales=(1.0,) * num_parameters(num_bins),
        )
        self.bound = bound

    def forward(self, context: Tensor) -> SplineAutoregressive:
        terms = self.context_terms(context)
        return SplineAutoregressive(list(self.nets), terms, self.degrees, self.bound)
