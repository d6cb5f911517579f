"""Sylvester flows: van den Berg et al. 2018, arXiv:1803.05649, section 3."""

from collections.abc import Mapping
from copy import copy
from math import prod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from flowvae.config import NumTransforms
from flowvae.model.flows.amortised import context_head, parameters_at
from flowvae.model.flows.family import Flow, FlowConfig
from flowvae.model.flows.orthogonal import Columns, HouseholderProductConfig, Orthogonalization, build_basis
from flowvae.model.transforms import Transform


class SylvesterConfig(FlowConfig):
    """K maps z + Q R tanh(R~ Q'z + b), arXiv:1803.05649. They have no inverse, so they are for posteriors.

    Attributes:
        num_transforms: K.
        orthogonalization: form of Q, as a mapping. `{"name": "orthogonal", "num_ortho": M}` has M columns, at most D;
            `{"name": "householder", "num_householder": n}` is a product of n reflections; `{"name": "triangular"}`
            has nothing to learn.
        amortised: whether the parameters depend on the image, or are the same for all.
    """

    context_field: ClassVar[str] = "amortised"

    flow: Literal["sylvester"] = "sylvester"
    num_transforms: NumTransforms
    orthogonalization: Orthogonalization = HouseholderProductConfig(num_householder=4)
    amortised: bool = True


class SylvesterTransform(Transform):
    """K maps f(z) = z + Q R tanh(R~ Q'z + b), one after another.

    Q has M orthonormal columns, and R and R~ are upper triangular matrices of M x M. By Sylvester's identity,
    with a = R~ Q'z + b,

        ln|det| = sum_i ln(1 + tanh'(a_i) r_ii r~_ii)

    The diagonals are r_ii = tanh(p_i) and r~_ii = tanh(q_i), so that r_ii r~_ii > -1, and f is invertible. With
    d_i = 1 + r_ii r~_ii, a factor of the determinant is tanh^2(a_i) + (1 - tanh^2(a_i)) d_i, and

        d_i = 2 (sigmoid(2 p_i) sigmoid(2 q_i) + sigmoid(-2 p_i) sigmoid(-2 q_i))

    All terms are positive: nothing cancels where a map almost folds.

    Args:
        columns: the K matrices Q.
        square: R above the diagonal, R~' below it, and p on it, shape (K, groups, M, M), with one group per image, or
            one for all.
        q: shape (K, groups, 1, M).
        b: the same shape.
    """

    has_inverse = False

    def __init__(self, columns: Columns, square: Tensor, q: Tensor, b: Tensor) -> None:
        p = square.diagonal(dim1=-2, dim2=-1)[..., None, :]  # (K, groups, 1, M)
        self.columns, self.b = columns, b
        self.r, self.r_tilde = (square.triu(1).mT, p.tanh()), (square.tril(-1), q.tanh())  # off and on the diagonals
        self.one_plus_product = one_plus_product(p, q)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x, activations = self._group(z), []
        for k, (upper, diagonal, upper_tilde, diagonal_tilde, b) in enumerate(
            zip(*self.r, *self.r_tilde, self.b, strict=True)
        ):
            y = self.columns.transpose_times(k, x)  # (groups, N, M)
            h = torch.baddbmm(torch.addcmul(b, y, diagonal_tilde), y, upper_tilde).tanh()
            x = x + self.columns.times(k, torch.baddbmm(h * diagonal, h, upper))
            activations.append(h)
        squares = torch.stack(activations).square()  # (K, groups, N, M)
        ladj = torch.log(squares + (1 - squares) * self.one_plus_product).sum((0, -1))
        return self._ungroup(x, z.shape), self._ungroup(ladj, z.shape[:-1])

    def steps(self, num_transforms: int) -> list[Transform]:
        return [self._only(k) for k in range(num_transforms)]

    def _only(self, k: int) -> "SylvesterTransform":
        chosen, maps = copy(self), slice(k, k + 1)
        chosen.columns, chosen.b = self.columns.only(k), self.b[maps]
        chosen.r, chosen.r_tilde = ((off[maps], diagonal[maps]) for off, diagonal in (self.r, self.r_tilde))
        chosen.one_plus_product = self.one_plus_product[maps]
        return chosen

    def _group(self, z: Tensor) -> Tensor:
        """(*sample_shape, batch, D) -> (groups, N, D), with one group per set of parameters."""
        if self.b.shape[1] == 1:
            return z.reshape(1, -1, z.shape[-1])
        return z.reshape(z.shape[:-2].numel(), *z.shape[-2:]).transpose(0, 1)

    def _ungroup(self, grouped: Tensor, shape: torch.Size) -> Tensor:
        return grouped.transpose(0, 1).reshape(shape)


def one_plus_product(p: Tensor, q: Tensor) -> Tensor:
    """1 + tanh(p) tanh(q) without cancellation, and positive also where it would be rounded to 0."""
    half = (2 * p).sigmoid() * (2 * q).sigmoid() + (-2 * p).sigmoid() * (-2 * q).sigmoid()
    return 2 * half + torch.finfo(p.dtype).tiny


class SylvesterFlow(Flow):
    """K Sylvester maps whose parameters are global, or a function of the context (amortised).

    It is initialised as the identity (R = 0), with random Q and R~.

    The paper makes the columns of its orthogonal form orthonormal by an iteration that must converge. Here they are
    those of a product of M reflections, which is exact for every parameter and reaches every Q up to signs, which R
    and R~ can absorb.

    Args:
        latent_shape: shape of the latents, with D elements.
        context_features: size of the context; ignored with global parameters.
        num_transforms: K.
        orthogonalization: the form of Q and its settings (`Orthogonalization`).
        amortised: whether the parameters are an affine function of the context.

    Raises:
        ValueError: Q has more columns than D.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        context_features: int,
        *,
        num_transforms: int,
        orthogonalization: Mapping[str, Any],
        amortised: bool,
    ) -> None:
        super().__init__()
        self.latent_dim = prod(latent_shape)
        self.basis = build_basis(self.latent_dim, **orthogonalization)
        self.context_features = context_features if amortised else 0
        num_columns, num_vectors = self.basis.num_columns, self.basis.num_vectors
        self.sizes = (num_vectors * self.latent_dim, num_columns**2, num_columns, num_columns)
        self.bias = nn.Parameter(torch.zeros(num_transforms, sum(self.sizes)))
        self._initialize()
        self.head = context_head(self.bias, context_features, amortised=amortised)

    @torch.no_grad()
    def _initialize(self) -> None:
        vectors, square, q, _ = self._split(self.bias)
        nn.init.normal_(vectors, std=self.latent_dim**-0.5)
        square.copy_(torch.randn_like(square).tril(-1) * self.basis.num_columns**-0.5)
        nn.init.normal_(q)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The vectors of Q, the square with p, R and R~', q, and b (see `SylvesterTransform`)."""
        vectors, square, q, b = parameters.split(self.sizes, dim=-1)
        num_columns, num_vectors = self.basis.num_columns, self.basis.num_vectors
        return (
            vectors.unflatten(-1, (num_vectors, self.latent_dim)),
            square.unflatten(-1, (num_columns, num_columns)),
            q[..., None, :],
            b[..., None, :],
        )

    def forward(self, context: Tensor) -> SylvesterTransform:
        parameters = parameters_at(context, self.bias, self.head)
        if self.head is None:
            parameters = parameters[None]
        vectors, square, q, b = self._split(parameters.transpose(0, 1))  # (K, groups, ...) each
        return SylvesterTransform(self.basis.columns(vectors), square, q, b)
