"""Sequential Monte Carlo against the closed form of a linear-Gaussian model."""

import math

import pytest
import torch

from flowvae.annealing import Point, anneal, resampled
from flowvae.model.distributions import log_standard_normal

DIM, NUM_OBSERVED, NOISE = 3, 5, 0.3


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model():
    """y = W v + noise with v ~ N(0, I), for four observations y: their densities, and the target at each v."""
    generator = draws(5)
    weights = torch.randn(NUM_OBSERVED, DIM, dtype=torch.float64, generator=generator)
    y = torch.randn(4, NUM_OBSERVED, dtype=torch.float64, generator=generator) * 2
    covariance = weights @ weights.T + NOISE**2 * torch.eye(NUM_OBSERVED, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(torch.zeros(NUM_OBSERVED).double(), covariance).log_prob(y)

    def evaluate(v):
        residuals = (y - v @ weights.T) / NOISE
        log_likelihood = log_standard_normal(residuals) - NUM_OBSERVED * math.log(NOISE)
        return Point(v, log_standard_normal(v), log_likelihood, -v, residuals @ weights / NOISE)

    mean = y @ torch.linalg.solve(covariance, weights)
    return exact, evaluate, mean


def run(evaluate, num_particles, num_temperatures, seed, step_sizes=None):
    start = torch.randn(num_particles, 4, DIM, dtype=torch.float64, generator=draws(seed))
    return anneal(evaluate, start, num_temperatures, draws(100 + seed), step_sizes)


def test_the_integral_is_that_of_the_closed_form(model):
    exact, evaluate, _ = model
    sizes = run(evaluate, 50, 30, 0).step_sizes
    assert len(sizes) == 30 and sizes[-1] < sizes[5]
    estimates = torch.stack([run(evaluate, 200, 30, seed, sizes).log_integral for seed in range(1, 9)])
    error = estimates.std(0) / 8**0.5
    assert error.max() < 0.2
    assert ((estimates.mean(0) - exact).abs() < 4 * error + 0.05).all()


def test_the_mean_of_few_particles_is_unbiased_and_its_logarithm_too_low(model):
    exact, evaluate, _ = model
    sizes = run(evaluate, 50, 10, 0).step_sizes
    ratios = torch.stack([run(evaluate, 8, 10, seed, sizes).log_integral for seed in range(1, 401)]) - exact
    error = ratios.exp().std(0) / 400**0.5
    assert ((ratios.exp().mean(0) - 1).abs() < 4 * error).all()
    assert (ratios.mean(0) < -2 * ratios.std(0) / 400**0.5).all()


def test_more_temperatures_are_nearer(model):
    exact, evaluate, _ = model
    few, many = (run(evaluate, 16, count, 1) for count in (2, 40))
    assert (exact - many.log_integral).abs().mean() < (exact - few.log_integral).abs().mean()
    assert few.effective.min() < 3 and (many.effective > few.effective).all()


def test_positions_are_draws_of_the_posterior(model):
    _, evaluate, mean = model
    positions = run(evaluate, 2000, 40, 1).positions
    assert torch.allclose(positions.mean(0), mean, atol=0.05)


def test_resampling_is_in_proportion_to_the_weights():
    weights = torch.tensor([[0.1, 0.0], [0.4, 0.0], [0.5, 1.0], [0.0, 0.0]])
    rows = torch.stack([resampled(weights.log(), draws(seed)) for seed in range(500)])
    shares = torch.stack([(rows == row).double().mean((0, 1)) for row in range(4)])
    assert torch.allclose(shares, weights.double(), atol=0.02)


def test_impossible_positions_are_left(model):
    _, evaluate, _ = model

    def partly(v):
        point = evaluate(v)
        lost = v[..., 0] > 1.5
        return point._replace(log_likelihood=point.log_likelihood.masked_fill(lost, -math.inf))

    found = run(partly, 200, 20, 1)
    assert found.log_integral.isfinite().all()
    assert (found.positions[..., 0] <= 1.5).all()
