"""Radial flows: Rezende & Mohamed 2015, arXiv:1505.05770, section 4.1."""

from math import prod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from flowvae.config import NumTransforms
from flowvae.model.flows.amortised import context_head, parameters_at
from flowvae.model.flows.family import Flow, FlowConfig
from flowvae.model.networks import SOFTPLUS_INV_ONE
from flowvae.model.transforms import Transform


class RadialConfig(FlowConfig):
    """K expansions or contractions around a point, arXiv:1505.05770, section 4.1.

    Attributes:
        num_transforms: K.
        amortised: whether the parameters depend on the image, or are the same for all.
    """

    context_field: ClassVar[str] = "amortised"

    flow: Literal["radial"] = "radial"
    num_transforms: NumTransforms
    amortised: bool = True


class RadialTransform(Transform):
    """K radial maps, each an expansion or a contraction around a centre, one after another.

        f(z) = z + beta (z - c) / (alpha + r),  r = ||z - c||

    arXiv:1505.05770, equation 14. It is invertible if beta >= -alpha (appendix A.2). With beta = alpha (m - 1) and
    m > 0, the factor along the sphere is (r + alpha m) / (alpha + r) and the slope along the radius is
    (r^2 + 2 alpha r + alpha^2 m) / (alpha + r)^2, in which nothing cancels:

        ln|det| = (D - 1) ln factor + ln slope

    The inverse has a closed form: r is the positive root of r^2 + (alpha m - R) r - alpha R = 0 at R = ||f(z) - c||.

    Args:
        centre: c, shape (batch, K, D), or (K, D) for all images.
        alpha: positive, shape (batch, K) or (K,).
        m: positive, 1 for the identity, the shape of alpha.
    """

    has_inverse = True

    def __init__(self, centre: Tensor, alpha: Tensor, m: Tensor) -> None:
        self.centre, self.alpha, self.m = centre, alpha, m

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        radii: list[Tensor] = []
        for centre, alpha, alpha_m in self._maps():
            offset = z - centre
            r = offset.norm(dim=-1, keepdim=True)
            z = torch.addcmul(centre, offset, (r + alpha_m) / (alpha + r))
            radii.append(r)
        return z, self._ladj(torch.cat(radii, dim=-1), z.shape[-1])

    def _inv_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        radii: list[Tensor] = []
        for centre, alpha, alpha_m in reversed(self._maps()):
            offset = z - centre
            r = radius_before(offset.norm(dim=-1, keepdim=True), alpha, alpha_m)
            z = torch.addcmul(centre, offset, (alpha + r) / (r + alpha_m))
            radii.append(r)
        return z, -self._ladj(torch.cat(radii[::-1], dim=-1), z.shape[-1])

    def steps(self, num_transforms: int) -> list[Transform]:
        maps = [slice(k, k + 1) for k in range(num_transforms)]
        return [RadialTransform(self.centre[..., k, :], self.alpha[..., k], self.m[..., k]) for k in maps]

    def _maps(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """c, alpha and alpha m of each map, the last axis of size D, 1 and 1."""
        alpha, alpha_m = self.alpha[..., None], (self.alpha * self.m)[..., None]
        return list(zip(*(value.unbind(-2) for value in (self.centre, alpha, alpha_m)), strict=True))

    def _ladj(self, r: Tensor, dim: int) -> Tensor:
        """ln|det|, summed over maps, for the distances r to the K centres, shape (*sample_shape, batch, K)."""
        alpha, alpha_m = self.alpha, self.alpha * self.m
        slope = r * (r + 2 * alpha) + alpha * alpha_m  # times (alpha + r)^2
        return ((dim - 1) * (r + alpha_m).log() + slope.log() - (dim + 1) * (alpha + r).log()).sum(-1)


def radius_before(radius: Tensor, alpha: Tensor, alpha_m: Tensor) -> Tensor:
    """The distance from the centre of the point that a radial map moves to distance `radius`, without cancellation."""
    half = 0.5 * (radius - alpha_m)
    root = (half.square() + alpha * radius).sqrt()
    smallest = torch.finfo(radius.dtype).tiny
    return torch.where(half > 0, half + root, alpha * radius / (root - half).clamp_min(smallest))


class RadialFlow(Flow):
    """K radial maps whose parameters are global, or a function of the context (amortised).

    It is initialised as the identity (m = 1), with alpha = 1 and centres from N(0, I).

    Args:
        latent_shape: shape of the latents, with D elements.
        context_features: size of the context; ignored with global parameters.
        num_transforms: K.
        amortised: whether the parameters are an affine function of the context.
    """

    def __init__(
        self, latent_shape: tuple[int, ...], context_features: int, *, num_transforms: int, amortised: bool
    ) -> None:
        super().__init__()
        self.latent_dim = prod(latent_shape)
        self.context_features = context_features if amortised else 0
        self.bias = nn.Parameter(torch.zeros(num_transforms, self.latent_dim + 2))
        nn.init.normal_(self.bias[:, : self.latent_dim])
        self.head = context_head(self.bias, context_features, amortised=amortised)

    def forward(self, context: Tensor) -> RadialTransform:
        parameters = parameters_at(context, self.bias, self.head)
        smallest = torch.finfo(parameters.dtype).eps  # whose square is a normal number too
        centre, raw = parameters.split((self.latent_dim, 2), dim=-1)
        alpha, m = softplus(raw + SOFTPLUS_INV_ONE).clamp_min(smallest).unbind(-1)
        return RadialTransform(centre, alpha, m)
