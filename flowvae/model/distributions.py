"""Distributions over the latent space: standard normal, diagonal normal, and one transformed by a flow."""

import math

from torch import Tensor

from flowvae.model.transforms import Transform


class StandardNormal:
    """N(0, I) over the last axis: the prior, and the distribution of the reparameterization noise."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(z; 0, I) in nats, shape z.shape[:-1]."""
        return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))


class DiagonalNormal:
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
        self.loc, self.scale = loc, scale

    def rsample_and_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw z = loc + scale * noise by reparameterization, and compute log q(z).

        Args:
            noise: standard-normal draws, shape (*sample_shape, batch, D).

        Returns:
            z, shape of noise, and log q(z) in nats, shape (*sample_shape, batch).
        """
        return self.loc + self.scale * noise, StandardNormal().log_prob(noise) - self.scale.log().sum(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats, shape z.shape[:-1]."""
        return StandardNormal().log_prob((z - self.loc) / self.scale) - self.scale.log().sum(-1)


class TransformedDistribution:
    """The distribution of f(z0), z0 ~ base: the posterior q_K of a normalizing flow.

        log q_K(z_K) = log q_0(z_0) - sum_k ln|det df_k/dz_{k-1}|

    Rezende & Mohamed 2015, arXiv:1505.05770, equation 13.
    """

    def __init__(self, base: DiagonalNormal, transform: Transform) -> None:
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
