"""Distributions over the latent space, as distributions of `torch.distributions`.

`rsample_and_log_prob` of a posterior takes its noise as an argument, so that callers decide where it comes from. The
methods of `torch.distributions` draw from torch's generators.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from flowvae.model.transforms import Transform

Shape = torch.Size | list[int] | tuple[int, ...]
SHAPE = torch.Size()


def log_standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) over the last axis in nats, shape z.shape[:-1]."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))


class LatentDistribution(Distribution):
    """A distribution over R^D.

    Args:
        batch_shape: () or (batch,).
        latent_dim: D.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, batch_shape: torch.Size, latent_dim: int) -> None:
        super().__init__(batch_shape, torch.Size((latent_dim,)), validate_args=False)


class DiagonalNormal(LatentDistribution):
    """N(loc, diag(scale^2)) over the last axis.

    Args:
        loc: mean, shape (batch, D).
        scale: standard deviation, positive, shape (batch, D).

    Raises:
        ValueError: loc and scale differ in shape.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        if loc.shape != scale.shape:
            raise ValueError(f"expected loc and scale of one shape, got {tuple(loc.shape)} and {tuple(scale.shape)}")
        super().__init__(loc.shape[:-1], loc.shape[-1])
        self.loc, self.scale = loc, scale

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale.square()

    def rsample_and_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw z = loc + scale * noise by reparameterization, and compute log q(z).

        Args:
            noise: standard-normal draws, shape (*sample_shape, batch, D).

        Returns:
            z, shape of noise, and log q(z) in nats, shape (*sample_shape, batch).
        """
        return self.loc + self.scale * noise, log_standard_normal(noise) - self.scale.log().sum(-1)

    def rsample(self, sample_shape: Shape = SHAPE) -> Tensor:
        """Draw z, shape (*sample_shape, batch, D)."""
        return self.rsample_and_log_prob(noise_like(self.loc, sample_shape))[0]

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats, shape z.shape[:-1]."""
        return log_standard_normal((z - self.loc) / self.scale) - self.scale.log().sum(-1)


class TransformedDistribution(LatentDistribution):
    """The distribution of f(z0), z0 ~ base: the posterior q_K of a normalizing flow.

        log q_K(z_K) = log q_0(z_0) - sum_k ln|det df_k/dz_{k-1}|

    Rezende & Mohamed 2015, arXiv:1505.05770, equation 13.
    """

    def __init__(self, base: DiagonalNormal, transform: Transform) -> None:
        super().__init__(base.batch_shape, base.event_shape[0])
        self.base, self.transform = base, transform

    def rsample_and_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw z_K and compute log q_K(z_K) in one pass, which every transform supports.

        Args:
            noise: standard-normal draws, shape (*sample_shape, batch, D).

        Returns:
            z_K, shape of noise, and log q_K(z_K) in nats, shape (*sample_shape, batch).
        """
        z, log_prob = self.base.rsample_and_log_prob(noise)
        z, ladj = self.transform.call_and_ladj(z)
        return z, log_prob - ladj

    def rsample(self, sample_shape: Shape = SHAPE) -> Tensor:
        """Draw z_K, shape (*sample_shape, batch, D)."""
        return self.rsample_and_log_prob(noise_like(self.base.loc, sample_shape))[0]

    def log_prob(self, z: Tensor) -> Tensor:
        """log q_K(z) in nats, shape z.shape[:-1].

        Raises:
            NotImplementedError: the transform has no closed-form inverse.
        """
        z0, ladj = self.transform.inv_and_ladj(z)
        return self.base.log_prob(z0) + ladj

    def push_loc(self) -> Tensor:
        """f(loc): the mean of the base, mapped by the flow, shape (batch, D)."""
        return self.transform.call_and_ladj(self.base.loc)[0]


class Prior(LatentDistribution):
    """The distribution of z where f(z) ~ N(0, I): a flow that runs in the normalising direction.

        log p(z) = log N(f(z); 0, I) + ln|det df/dz|

    Its density takes one pass of the flow, and sampling inverts it. Without a flow it is N(0, I). Dinh et al. 2017,
    arXiv:1605.08803, equations 2 and 3; as the prior of a VAE, Huang et al. 2017, and Chen et al. 2017,
    arXiv:1611.02731, section 3.2.

    Args:
        transform: f, with an inverse.
        like: a tensor of the precision and on the device of the draws, shape (..., D).
    """

    def __init__(self, transform: Transform, like: Tensor) -> None:
        super().__init__(SHAPE, like.shape[-1])
        self.transform, self.like = transform, like

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats, shape z.shape[:-1]."""
        noise, ladj = self.transform.call_and_ladj(z)
        return log_standard_normal(noise) + ladj

    def to_noise(self, z: Tensor) -> Tensor:
        """f(z), shape of z, which is standard normal under the prior."""
        return self.transform.call_and_ladj(z)[0]

    def from_noise(self, noise: Tensor) -> Tensor:
        """The z that f maps to the noise, shape of noise; in D passes if f is autoregressive."""
        return self.transform.inv_and_ladj(noise)[0]

    def rsample(self, sample_shape: Shape = SHAPE) -> Tensor:
        """Draw z, shape (*sample_shape, D)."""
        return self.from_noise(noise_like(self.like.new_empty(self.event_shape), sample_shape))


def noise_like(loc: Tensor, sample_shape: Shape) -> Tensor:
    """Standard-normal draws from torch's generator, shape (*sample_shape, *loc.shape)."""
    return torch.randn(*sample_shape, *loc.shape, dtype=loc.dtype, device=loc.device)
