"""The contract of a bijection, and composition.

A transform is a pure object with a short life: a flow module creates it from a context (see `flowvae.model.flows`), and
it maps one batch. In a posterior, forward is from the base variable z0 to the sample zK; in a prior, from z to noise.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributions import constraints, transforms

T = TypeVar("T")


class Transform(transforms.Transform, ABC):
    """A differentiable bijection on R^D with a tractable log-determinant, as a transform of `torch.distributions`.

    It runs in the precision of its input (`full_precision`), also inside a context of autocast, which a caller may
    enter between the creation of a transform and its use.
    Subclasses define `_call_and_ladj`, and `_inv_and_ladj` if they have an inverse.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True
    _cache_size = 0  # what the constructor of torch's class sets; subclasses here need not call it
    _inv = None

    @property
    @abstractmethod
    def has_inverse(self) -> bool:
        """Whether `inv_and_ladj`, and the transform `inv`, can be computed, up to rounding."""

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map z and compute the log absolute determinant of the Jacobian (ladj).

        Args:
            z: points, shape (*sample_shape, batch, D).

        Returns:
            f(z), shape (*sample_shape, batch, D), and ladj = ln|det df/dz| in nats,
            shape (*sample_shape, batch).
        """
        with full_precision(z.device):
            return self._call_and_ladj(z)

    def inv_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the point that `call_and_ladj` maps to z, and the log-determinant of the inverse at z.

        Args:
            z: points, shape (*sample_shape, batch, D).

        Returns:
            f^-1(z), shape of z, and ln|det df^-1/dz| in nats, shape (*sample_shape, batch).

        Raises:
            NotImplementedError: the transform has no inverse.
        """
        if not self.has_inverse:
            raise NotImplementedError(
                f"{type(self).__name__} has no closed-form inverse (has_inverse is False): "
                "draw and score together with rsample_and_log_prob instead"
            )
        with full_precision(z.device):
            return self._inv_and_ladj(z)

    def steps(self, num_transforms: int) -> "Sequence[Transform]":
        """Its transformations one by one, in the order of `call_and_ladj`.

        Args:
            num_transforms: K, in how many equal parts the whole is to be divided.

        Raises:
            NotImplementedError: it cannot be divided.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be divided into its transformations")

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """ln|det df/dz| in nats at x, shape x.shape[:-1]; y = f(x) is not used."""
        return self.call_and_ladj(x)[1]

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inv_and_ladj(y)[0]

    @abstractmethod
    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What `call_and_ladj` returns."""

    def _inv_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What `inv_and_ladj` returns. Transforms with `has_inverse` define it."""
        raise AssertionError(f"{type(self).__name__}: has_inverse is True, but _inv_and_ladj is not defined; define it")


class ComposedTransform(Transform):
    """f_K o ... o f_1 for the transforms (f_1, ..., f_K); the identity when there are none."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)

    def steps(self, num_transforms: int) -> Sequence[Transform]:
        return [ComposedTransform(part) for part in parts(self.transforms, num_transforms)]

    @property
    def has_inverse(self) -> bool:
        return all(transform.has_inverse for transform in self.transforms)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)
        for transform in self.transforms:
            z, ladj = transform.call_and_ladj(z)
            total = total + ladj
        return z, total

    def _inv_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)
        for transform in reversed(self.transforms):
            z, ladj = transform.inv_and_ladj(z)
            total = total + ladj
        return z, total


def parts(items: Sequence[T], count: int) -> list[Sequence[T]]:
    """Consecutive parts of equal length."""
    size = len(items) // max(1, count)
    return [items[i * size : (i + 1) * size] for i in range(count)]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """A context in which float32 operations on a device have the precision of float32: without autocast and TF32.

    A log-determinant is a sum over dimensions and transformations, and would add up the errors of fewer bits.
    A graph of `torch.compile` cannot change TF32; call a compiled model inside of `without_tf32`, as `fit` does.
    """
    with torch.autocast(device.type, enabled=False):
        if torch.compiler.is_compiling():
            yield
        else:
            with without_tf32(device):
                yield


@contextmanager
def without_tf32(device: torch.device) -> Iterator[None]:
    """A context in which a GPU does not use TF32, which has 10 bits of precision.

    cuDNN uses it in convolutions unless told not to, and a caller may have allowed it in matrix products.
    """
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    reduced = [kind for kind in (conv, matmul) if device.type == "cuda" and kind.fp32_precision == "tf32"]
    for kind in reduced:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind in reduced:
            kind.fp32_precision = "tf32"


def affine(z: Tensor, log_scale: Tensor, shift: Tensor) -> Tensor:
    """Return z exp(log_scale) + shift; ln|det| is the sum of log_scale over the elements of z."""
    return torch.addcmul(shift, z, log_scale.exp())


def affine_inv(z: Tensor, log_scale: Tensor, shift: Tensor) -> Tensor:
    """Return the point that `affine` maps to z."""
    return (z - shift) * (-log_scale).exp()


def bounded(raw: Tensor, bound: float) -> Tensor:
    """Return a number between -bound and bound that is about raw near 0: bound * tanh(raw / bound)."""
    return bound * torch.tanh(raw * (1 / bound))  # a product takes half the time of a quotient
