"""Bounds on log p(x), one value per image."""

import math

import torch
from torch import Tensor

from flowvae.vae import LogDensities


def elbo(densities: LogDensities, kl_weight: float = 1.0, free_nats: float = 0.0) -> Tensor:
    """Evidence lower bound log p(x|zK) - kl_weight * (log q_K(zK|x) - log p(zK)), in nats.

    The negative of F(x) in Rezende & Mohamed 2015, arXiv:1505.05770, equation 15; kl_weight is
    the inverse temperature beta_t of its equation 20, applied to the KL term.

    Args:
        densities: of a VAE at draws of shape (*sample_shape, batch).
        kl_weight: weight of the KL term, 1 for the bound itself.
        free_nats: the KL term of a draw counts as at least so much, 0 for the bound itself. These are the
            free bits of Kingma et al. 2016, arXiv:1606.04934, appendix C.8, with all of z as one group, since
            a flow's KL is no sum over dimensions, and per image, so that they do not depend on its batch.

    Returns:
        shape (*sample_shape, batch).
    """
    divergence = kl(densities)
    if free_nats:
        divergence = divergence.clamp_min(free_nats)
    return densities.log_likelihood - kl_weight * divergence


def kl(densities: LogDensities) -> Tensor:
    """Monte Carlo log q_K(zK|x) - log p(zK) in nats, shape (*sample_shape, batch)."""
    return densities.log_posterior - densities.log_prior


def importance_weighted_bound(densities: LogDensities, kl_weight: float = 1.0) -> Tensor:
    """log 1/S sum_s p(x, z_s) / q(z_s|x) in nats, over the first axis.

    Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519, equation 8. It rises to log p(x) with S.

    Args:
        densities: of a VAE at draws of shape (S, batch).
        kl_weight: weight of log q - log p in every importance weight, 1 for the bound itself.

    Returns:
        shape (batch,).
    """
    return log_mean_exp(elbo(densities, kl_weight))


def loss_terms(densities: LogDensities) -> Tensor:
    """-ELBO, -log p(x|z) and KL in nats, the mean over draws, shape (3, batch)."""
    terms = torch.stack((-elbo(densities), -densities.log_likelihood, kl(densities)))
    return terms.mean(1) if terms.dim() > 2 else terms


def log_mean_exp(values: Tensor) -> Tensor:
    """log of the mean of exp(values) over the first axis, shape values.shape[1:]."""
    return torch.logsumexp(values, dim=0) - math.log(len(values))
