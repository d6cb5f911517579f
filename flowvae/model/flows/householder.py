"""Householder flows: Tomczak & Welling 2016, arXiv:1611.09630."""

from collections.abc import Sequence
from math import prod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from flowvae.config import NumTransforms
from flowvae.model.flows.amortised import context_head, parameters_at
from flowvae.model.flows.family import Flow, FlowConfig
from flowvae.model.transforms import Transform


class HouseholderConfig(FlowConfig):
    """K rotations of two reflections each, arXiv:1611.09630. In a prior they change nothing.

    Attributes:
        num_transforms: K.
        amortised: whether the parameters depend on the image, or are the same for all.
    """

    context_field: ClassVar[str] = "amortised"

    flow: Literal["householder"] = "householder"
    num_transforms: NumTransforms
    amortised: bool = True


class HouseholderTransform(Transform):
    """Reflections z - 2 v v'z / ||v||^2, one after another; volumes do not change.

    arXiv:1611.09630, section 3. A posterior with a diagonal normal base gets a full covariance.

    Args:
        v: normal vectors of the reflections, of length 1 or 0, shape (batch, reflections, D), or (reflections, D) for
            all images. A vector of length 0 reflects nothing.
    """

    has_inverse = True

    def __init__(self, v: Tensor) -> None:
        self.v = v

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return reflect(z, self.v.unbind(-2)), z.new_zeros(z.shape[:-1])

    def _inv_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return reflect(z, self.v.unbind(-2)[::-1]), z.new_zeros(z.shape[:-1])

    def steps(self, num_transforms: int) -> list[Transform]:
        return [HouseholderTransform(v) for v in self.v.chunk(num_transforms, dim=-2)]


def reflect(z: Tensor, vectors: Sequence[Tensor]) -> Tensor:
    """Reflect z, shape (*sample_shape, batch, D), by one normal vector after another, shape (batch, D) or (D,)."""
    for v in vectors:
        z = torch.addcmul(z, v, (v * z).sum(-1, keepdim=True), value=-2)
    return z


class HouseholderFlow(Flow):
    """K pairs of reflections whose normal vectors are global, or a function of the context (amortised).

    The normal vectors of a pair are v and v + u, so each pair is a rotation in one plane. With u = 0 at the start the
    flow is initialised as the identity, which no single reflection is; and the flow preserves orientation.

    Args:
        latent_shape: shape of the latents, with D >= 2 elements.
        context_features: size of the context; ignored with global parameters.
        num_transforms: K, the number of pairs.
        amortised: whether the vectors are an affine function of the context.

    Raises:
        ValueError: D is 1, where only the identity preserves volume and orientation.
    """

    def __init__(
        self, latent_shape: tuple[int, ...], context_features: int, *, num_transforms: int, amortised: bool
    ) -> None:
        super().__init__()
        latent_dim = prod(latent_shape)
        if latent_dim < 2:
            raise ValueError(
                f"expected a latent of at least 2 dimensions for householder (it rotates), got {latent_dim}"
            )
        self.context_features = context_features if amortised else 0
        self.bias = nn.Parameter(torch.zeros(num_transforms, 2, latent_dim))  # v and u of each pair
        nn.init.normal_(self.bias[:, 0], std=latent_dim**-0.5)
        self.head = context_head(self.bias, context_features, amortised=amortised)

    def forward(self, context: Tensor) -> HouseholderTransform:
        parameters = parameters_at(context, self.bias, self.head)
        vectors = parameters.cumsum(-2)  # v, v + u
        return HouseholderTransform(normalize(vectors, dim=-1).flatten(-3, -2))
