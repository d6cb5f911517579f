"""The contract of a bijection, and composition.

A transform is a pure object with a short life: a flow module creates it from a context (see `flowvae.model.flows`), and
it maps one batch. Forward is the direction of sampling, from the base variable z0 to the posterior sample zK.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class Transform(ABC):
    """A differentiable bijection on R^D with a tractable log-determinant."""

    @property
    @abstractmethod
    def has_inverse(self) -> bool:
        """Whether `inv` exists in closed form."""

    @abstractmethod
    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map z and compute the log absolute determinant of the Jacobian (ladj).

        Args:
            z: points, shape (*sample_shape, batch, D).

        Returns:
            f(z), shape (*sample_shape, batch, D), and ladj = ln|det df/dz| in nats,
            shape (*sample_shape, batch).
        """

    def inv(self, z: Tensor) -> Tensor:
        """Return the point that `call_and_ladj` maps to z, shape of z.

        Raises:
            NotImplementedError: the transform has no closed-form inverse.
        """
        if not self.has_inverse:
            raise NotImplementedError(
                f"{type(self).__name__} has no closed-form inverse (has_inverse is False): "
                "draw and score together with rsample_and_log_prob instead"
            )
        return self._inv(z)

    def _inv(self, z: Tensor) -> Tensor:
        """The closed-form inverse; transforms with `has_inverse` define it."""
        raise AssertionError(f"{type(self).__name__}: has_inverse is True, but _inv is not defined; define it")


class ComposedTransform(Transform):
    """f_K o ... o f_1 for the transforms (f_1, ..., f_K); the identity when there are none."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)

    @property
    def has_inverse(self) -> bool:
        return all(transform.has_inverse for transform in self.transforms)

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)
        for transform in self.transforms:
            z, ladj = transform.call_and_ladj(z)
            total = total + ladj
        return z, total

    def _inv(self, z: Tensor) -> Tensor:
        for transform in reversed(self.transforms):
            z = transform.inv(z)
        return z


def affine(z: Tensor, log_scale: Tensor, shift: Tensor) -> Tensor:
    """Return z exp(log_scale) + shift; ln|det| is the sum of log_scale over the elements of z."""
    return torch.addcmul(shift, z, log_scale.exp())


def affine_inv(z: Tensor, log_scale: Tensor, shift: Tensor) -> Tensor:
    """Return the point that `affine` maps to z."""
    return (z - shift) * (-log_scale).exp()
