"""Sequential Monte Carlo: an integral of a prior times a likelihood, and draws from their normalised product."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.evaluation import effective_sample_size
from flowvae.model.objectives import log_mean_exp

POWER = 3  # of the temperatures: most of them are low, where the likelihood begins to matter
FIRST_STEP, LEAST_STEP, MOST_STEP = 0.5, 1e-4, 2.0  # of the moves, in standard deviations of the prior
ACCEPTANCE = 0.57  # of Langevin moves, Roberts & Rosenthal 1998, "Optimal scaling of discrete approximations"


class Point(NamedTuple):
    """Positions, shape (particles, batch, D), log densities of prior and likelihood, and their gradients."""

    position: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    prior_gradient: Tensor
    likelihood_gradient: Tensor

    def log_density(self, temperature: float) -> Tensor:
        """Of the prior times the likelihood to the power `temperature`, shape (particles, batch)."""
        return self.log_prior + temperature * self.log_likelihood

    def gradient(self, temperature: float) -> Tensor:
        """Of `log_density`."""
        return self.prior_gradient + temperature * self.likelihood_gradient

    def replaced(self, by: "Point", where: Tensor) -> "Point":
        """The other point where a condition holds, shape (particles, batch)."""
        conditions = (where[..., None] if old.dim() > where.dim() else where for old in self)
        return Point(*map(torch.where, conditions, by, self))

    def chosen(self, rows: Tensor) -> "Point":
        """Of each image the particles with these numbers, shape (particles, batch)."""
        columns = torch.arange(rows.shape[1], device=rows.device)
        return Point(*(part[rows, columns] for part in self))


class Annealed(NamedTuple):
    """Results of `anneal`.

    Attributes:
        log_integral: estimate of the logarithm of the integral, shape (batch,).
        effective: number of the particles where it was smallest, shape (batch,).
        positions: approximate draws from prior times likelihood, shape (particles, batch, D).
        step_sizes: of the moves, one for each temperature.
    """

    log_integral: Tensor
    effective: Tensor
    positions: Tensor
    step_sizes: list[float]


def anneal(
    evaluate: Callable[[Tensor], Point],
    start: Tensor,
    num_temperatures: int,
    generator: torch.Generator,
    step_sizes: Sequence[float] | None = None,
) -> Annealed:
    """Estimate the integral of prior times likelihood, for a batch of likelihoods, by a sequential Monte Carlo sampler.

    Del Moral, Doucet & Jasra 2006, "Sequential Monte Carlo samplers", section 3.3.2. Particles start as draws from the
    prior, and follow prior times likelihood^t while t = (k / num_temperatures)^POWER rises to 1. At each temperature
    they are weighted, resampled if less than half are effective, and moved by one Langevin step. The product of the
    mean weights is an unbiased estimate of the integral if the step sizes are given. So its logarithm is too low, in
    expectation, and by less with more particles and more temperatures.

    Args:
        evaluate: positions, shape (particles, batch, D) -> densities and gradients there.
        start: draws from the prior, shape (particles, batch, D).
        num_temperatures: above 0.
        generator: of all draws, on the device of the positions.
        step_sizes: of the moves; None for sizes that follow the acceptance, as a run on other data finds them.
    """
    point, sizes, size = evaluate(start), list[float](), FIRST_STEP
    log_weights, before = torch.zeros_like(point.log_prior), 0.0
    log_integral = torch.zeros_like(log_weights[0])
    effective = torch.full_like(log_integral, len(start))
    for k in range(num_temperatures):
        temperature = ((k + 1) / num_temperatures) ** POWER
        log_weights = log_weights + (temperature - before) * point.log_likelihood
        effective_now = effective_sample_size(log_weights)
        effective = torch.minimum(effective, effective_now)
        few = effective_now < len(start) / 2
        log_integral = torch.where(few, log_integral + log_mean_exp(log_weights), log_integral)
        point = point.chosen(torch.where(few, resampled(log_weights, generator), own_rows(log_weights)))
        log_weights = torch.where(few, 0, log_weights)
        sizes.append(size if step_sizes is None else step_sizes[k])
        point, acceptance = moved(evaluate, point, temperature, sizes[-1], generator)
        size = min(MOST_STEP, max(LEAST_STEP, size * math.exp(acceptance.mean().item() - ACCEPTANCE)))
        before = temperature
    positions = point.chosen(resampled(log_weights, generator)).position
    return Annealed(log_integral + log_mean_exp(log_weights), effective, positions, sizes)


def moved(
    evaluate: Callable[[Tensor], Point], point: Point, temperature: float, step_size: float, generator: torch.Generator
) -> tuple[Point, Tensor]:
    """Move every particle by the Metropolis-adjusted Langevin algorithm.

    It is Hamiltonian Monte Carlo with one leapfrog step; Neal 2011, "MCMC using Hamiltonian dynamics", section 5.2.

    Returns:
        The particles, and the probability with which each move was accepted, shape (particles, batch).
    """
    like = point.position
    momentum = torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
    halfway = momentum + 0.5 * step_size * point.gradient(temperature)
    proposed = evaluate(point.position + step_size * halfway)
    end = halfway + 0.5 * step_size * proposed.gradient(temperature)
    change = proposed.log_density(temperature) - point.log_density(temperature)
    log_ratio = change - 0.5 * (end.square().sum(-1) - momentum.square().sum(-1))
    acceptance = log_ratio.nan_to_num(-math.inf).clamp(max=0).exp()
    uniform = torch.rand(acceptance.shape, dtype=like.dtype, device=like.device, generator=generator)
    return point.replaced(proposed, uniform < acceptance), acceptance


def resampled(log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers of particles, drawn by systematic resampling (Kitagawa 1996), shape of log_weights."""
    ends = log_weights.softmax(0).cumsum(0).T.contiguous()
    offsets = torch.rand((len(ends), 1), dtype=ends.dtype, device=ends.device, generator=generator)
    places = (torch.arange(len(log_weights), device=ends.device) + offsets) / len(log_weights)
    return torch.searchsorted(ends, places).clamp(max=len(log_weights) - 1).T


def own_rows(log_weights: Tensor) -> Tensor:
    """The number of each particle, shape of log_weights."""
    return torch.arange(len(log_weights), device=log_weights.device)[:, None].expand_as(log_weights)
