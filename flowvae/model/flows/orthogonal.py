"""Matrices Q with orthonormal columns, in the three forms of van den Berg et al. 2018, arXiv:1803.05649."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize, pad

from flowvae.config import Config, PositiveInt


class OrthogonalConfig(Config):
    """Any `num_ortho` orthonormal columns."""

    name: Literal["orthogonal"] = "orthogonal"
    num_ortho: PositiveInt


class HouseholderProductConfig(Config):
    """A square matrix, the product of `num_householder` reflections."""

    name: Literal["householder"] = "householder"
    num_householder: PositiveInt


class TriangularConfig(Config):
    """The identity and the reversal of the elements in turns."""

    name: Literal["triangular"] = "triangular"


Orthogonalization = Annotated[
    OrthogonalConfig | HouseholderProductConfig | TriangularConfig, Field(discriminator="name")
]


class Columns(ABC):
    """K matrices Q of D x M, each for one group of points or for several."""

    @abstractmethod
    def times(self, k: int, x: Tensor) -> Tensor:
        """Q_k x for every x, shape (groups, N, M) -> (groups, N, D)."""

    @abstractmethod
    def transpose_times(self, k: int, z: Tensor) -> Tensor:
        """Q_k' z for every z, shape (groups, N, D) -> (groups, N, M)."""

    @abstractmethod
    def only(self, k: int) -> "Columns":
        """The matrix Q_k alone."""


class Reflections(Columns):
    """The first M columns of H_1 ... H_n, where H_i = I - 2 v_i v_i' / ||v_i||^2; a vector of zeros reflects nothing.

    The product is I - V S^-1 V' for the unit vectors V = (v_1, ..., v_n) and the triangular S with 1/2 on its diagonal
    and v_i'v_j above it (the compact WY form of Schreiber & Van Loan 1989). So the columns are orthonormal up to
    rounding for all vectors, and neither Q nor any H_i is formed.

    Args:
        vectors: shape (K, groups, n, D).
        num_columns: M.
    """

    def __init__(self, vectors: Tensor, num_columns: int) -> None:
        v = normalize(vectors, dim=-1)
        half = 0.5 * torch.eye(v.shape[-2], dtype=v.dtype, device=v.device)
        s = (v @ v.mT).triu(1) + half
        self.num_columns, self.num_others = num_columns, v.shape[-1] - num_columns
        self.v = v.unbind()  # (groups, n, D) each
        self.solved = torch.linalg.solve_triangular(s, v[..., :num_columns], upper=True).unbind()  # (groups, n, M) each

    def only(self, k: int) -> "Reflections":
        chosen = copy(self)
        chosen.v, chosen.solved = self.v[k : k + 1], self.solved[k : k + 1]
        return chosen

    def times(self, k: int, x: Tensor) -> Tensor:
        return torch.baddbmm(pad(x, (0, self.num_others)), x @ self.solved[k].mT, self.v[k], alpha=-1)

    def transpose_times(self, k: int, z: Tensor) -> Tensor:
        return torch.baddbmm(z[..., : self.num_columns], z @ self.v[k].mT, self.solved[k], alpha=-1)


class Reversals(Columns):
    """The identity for the first, third, ... transformation, and the reversal of the elements for the others.

    Args:
        start: transformations before the first.
    """

    def __init__(self, start: int = 0) -> None:
        self.start = start

    def only(self, k: int) -> "Reversals":
        return Reversals(self.start + k)

    def times(self, k: int, x: Tensor) -> Tensor:
        return x.flip(-1) if (self.start + k) % 2 else x

    def transpose_times(self, k: int, z: Tensor) -> Tensor:
        return self.times(k, z)


class Basis(NamedTuple):
    """A form of Q.

    Attributes:
        num_columns: M.
        num_vectors: number of vectors in R^D that determine one Q.
        columns: vectors, shape (K, groups, num_vectors, D), to the matrices.
    """

    num_columns: int
    num_vectors: int
    columns: Callable[[Tensor], Columns]


def orthogonal(latent_dim: int, *, num_ortho: int) -> Basis:
    """As many reflections as columns, which reach every Q up to the signs of its columns."""
    if num_ortho > latent_dim:
        raise ValueError(f"expected num_ortho of at most {latent_dim}, the dimensions of the latent, got {num_ortho}")
    return Basis(num_ortho, num_ortho, partial(Reflections, num_columns=num_ortho))


def householder(latent_dim: int, *, num_householder: int) -> Basis:
    """A square Q."""
    return Basis(latent_dim, num_householder, partial(Reflections, num_columns=latent_dim))


def triangular(latent_dim: int) -> Basis:
    """A permutation, which depends on nothing."""
    return Basis(latent_dim, 0, lambda vectors: Reversals())


BASES: dict[str, Callable[..., Basis]] = {
    "orthogonal": orthogonal,
    "householder": householder,
    "triangular": triangular,
}


def build_basis(latent_dim: int, *, name: str, **settings: Any) -> Basis:
    """Build the form of Q that settings of `Orthogonalization` describe, for latents in R^D.

    Raises:
        ValueError: it has more columns than the latent has dimensions.
    """
    return BASES[name](latent_dim, **settings)
