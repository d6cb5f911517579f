"""Bounds on log p(x), one value per image."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Objective = Literal["elbo", "importance_weighted"]


class LogDensities(NamedTuple):
    """The log densities of a VAE at draws of z, in nats.

    Attributes:
        log_likelihood, log_prior, log_posterior: log p(x|z), log p(z) and log q(z|x), shape (*sample_shape, batch).
        z: shape (*sample_shape, batch, D).
        kl_of_levels: log q - log p of each level of a hierarchy, or of all of z, shape (levels, *sample_shape, batch).
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_posterior: Tensor
    z: Tensor
    kl_of_levels: Tensor


def elbo(densities: LogDensities, kl_weight: float = 1.0) -> Tensor:
    """Evidence lower bound log p(x|zK) - kl_weight * (log q_K(zK|x) - log p(zK)), in nats.

    The negative of F(x) in Rezende & Mohamed 2015, arXiv:1505.05770, equation 15; kl_weight is
    the inverse temperature beta_t of its equation 20, applied to the KL term.

    Args:
        densities: of a VAE at draws of shape (*sample_shape, batch).
        kl_weight: weight of the KL term, 1 for the bound itself.

    Returns:
        Shape (*sample_shape, batch).
    """
    return densities.log_likelihood - kl_weight * kl(densities)


def kl(densities: LogDensities) -> Tensor:
    """Monte Carlo estimate of the KL divergence, log q_K(zK|x) - log p(zK), in nats, shape (*sample_shape, batch)."""
    return densities.log_posterior - densities.log_prior


def importance_weighted_bound(densities: LogDensities, kl_weight: float = 1.0) -> Tensor:
    """log 1/S sum_s p(x, z_s) / q(z_s|x) in nats, over the first axis.

    Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519, equation 8. It rises to log p(x) with S.

    Args:
        densities: of a VAE at draws of shape (S, batch).
        kl_weight: weight of log q - log p in every importance weight, 1 for the bound itself.

    Returns:
        Shape (batch,).
    """
    return log_mean_exp(elbo(densities, kl_weight))


def objective(
    densities: LogDensities,
    name: Objective,
    kl_weight: float,
    free_nats: float,
    batch_mean: Callable[[Tensor], Tensor] = torch.mean,
) -> Tensor:
    """Compute the bound that training maximises, averaged over draws.

    Args:
        densities: of a VAE at draws of shape (S, batch); also (batch,) for the ELBO.
        name: the ELBO, or the importance-weighted bound.
        kl_weight: weight of the KL term.
        free_nats: lower limit of the KL term of each level, as a mean over the batch, below which it has no gradient;
            only for the ELBO. These are the free bits of Kingma et al. 2016, arXiv:1606.04934, appendix C.8, with all
            of a level as one group, because a flow's KL is not a sum over dimensions. A single draw of the KL term
            varies by several nats, so a limit on each would take away part of the gradient at any mean.
        batch_mean: mean over all images of the batch, of which this may be one worker's share; shape (batch,) -> ().

    Returns:
        The bound in nats, shape (batch,).
    """
    if name == "importance_weighted":
        return importance_weighted_bound(densities, kl_weight)
    reconstruction, levels = densities.log_likelihood, densities.kl_of_levels
    if reconstruction.dim() > 1:
        reconstruction, levels = reconstruction.mean(0), levels.mean(1)
    if free_nats:
        means = torch.stack([batch_mean(level.detach()) for level in levels])
        levels = torch.where(means[:, None] > free_nats, levels, free_nats)
    return reconstruction - kl_weight * levels.sum(0)


def loss_terms(densities: LogDensities) -> Tensor:
    """Stack -ELBO, -log p(x|z) and KL in nats, averaged over draws.

    Args:
        densities: of a VAE at draws of shape (S, batch) or (batch,).

    Returns:
        Shape (3, batch).
    """
    terms = torch.stack((-elbo(densities), -densities.log_likelihood, kl(densities)))
    return terms.mean(1) if terms.dim() > 2 else terms


def log_mean_exp(values: Tensor) -> Tensor:
    """log of the mean of exp(values) over the first axis, shape values.shape[1:]."""
    return torch.logsumexp(values, dim=0) - math.log(len(values))
