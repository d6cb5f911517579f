"""Affine autoregressive flows: Kingma et al. 2016, arXiv:1606.04934; Papamakarios et al. 2017, arXiv:1705.07057."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from flowvae.config import NumTransforms, PositiveFloat, PositiveInt
from flowvae.model.flows.autoregressive_stack import AutoregressiveFlow, AutoregressiveStack
from flowvae.model.flows.family import FlowConfig
from flowvae.model.transforms import affine, affine_inv

Gate = Literal["affine", "stable"]

OFFSET = 1.0  # of the logit of a stable gate
LOG_OPEN = -math.log1p(math.exp(-OFFSET))  # ln of such a gate where a net's output is 0


class AffineAutoregressiveConfig(FlowConfig):
    """K maps z_d exp(s_d) + t_d, where s and t depend on the elements before d.

    In a posterior it is an inverse autoregressive flow (IAF, arXiv:1606.04934), in a prior a masked autoregressive flow
    (MAF, arXiv:1705.07057). The inverse takes D passes.

    Attributes:
        num_transforms: K.
        hidden_features: widths of the hidden layers.
        context: whether the nets see the encoder's context; never in a prior.
        log_scale_bound: bound on |s|.
        gate: `stable` is the numerically stable gate of arXiv:1606.04934, equations 12 to 14.
    """

    context_field: ClassVar[str] = "context"

    flow: Literal["autoregressive"] = "autoregressive"
    num_transforms: NumTransforms
    hidden_features: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)] = (128,)
    context: bool = True
    log_scale_bound: PositiveFloat = 2.0
    gate: Gate = "affine"


def affine_gate(s: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Log-scale s and shift m: y = z exp(s) + m."""
    return s, m


def stable_gate(s: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Log-scale and shift of y = z sigma(s + 1) / sigma(1) + (1 - sigma(s + 1)) m.

    The update of arXiv:1606.04934, equations 12 to 14, but for the constant 1 / sigma(1), without which no finite s
    gives the identity. The scale is less than 1.37.
    """
    logit = s + OFFSET
    return logsigmoid(logit) - LOG_OPEN, (-logit).sigmoid() * m


GATES: dict[Gate, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {"affine": affine_gate, "stable": stable_gate}


class AffineAutoregressive(AutoregressiveStack):
    """y_d = z_d exp(log-scale_d) + shift_d, both functions of the elements before d; ln|det| is the sum of log-scales.

    A gate computes them from the net's s and m, of which s is bounded as in a coupling:
    log_scale_bound * tanh(s / log_scale_bound). The net's scales include the division. With both gates log_scale_bound
    is a bound on |log-scale|.

    Args:
        nets: with two outputs per element, raw s / log_scale_bound and m.
        context_terms, degrees: as for `AutoregressiveStack`.
        log_scale_bound: bound on |s|.
        gate: "affine" (`affine_gate`) or "stable" (`stable_gate`).
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        context_terms: Sequence[Tensor | None],
        degrees: Tensor,
        log_scale_bound: float,
        gate: Gate,
    ) -> None:
        super().__init__(nets, context_terms, degrees)
        self.log_scale_bound, self.gate = log_scale_bound, GATES[gate]

    def move(self, parameters: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._scale_and_shift(parameters)
        return affine(z, log_scale, shift), log_scale

    def move_back(self, parameters: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._scale_and_shift(parameters)
        return affine_inv(z, log_scale, shift), -log_scale

    def _scale_and_shift(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        raw, m = parameters.unbind(-2)
        return self.gate(self.log_scale_bound * raw.tanh(), m)


class AffineAutoregressiveFlow(AutoregressiveFlow):
    """K affine autoregressive transformations; initialised as the identity.

    Args:
        latent_shape, context_features, num_transforms, hidden_features, context: as for `AutoregressiveFlow`.
        log_scale_bound, gate: as for `AffineAutoregressive`.
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
        gate: Gate,
    ) -> None:
        super().__init__(
            latent_shape,
            context_features,
            num_transforms=num_transforms,
            hidden_features=hidden_features,
            context=context,
            scales=(1 / log_scale_bound, 1.0),
        )
        self.log_scale_bound, self.gate = log_scale_bound, gate

    def forward(self, context: Tensor) -> AffineAutoregressive:
        terms = self.context_terms(context)
        return AffineAutoregressive(list(self.nets), terms, self.degrees, self.log_scale_bound, self.gate)
