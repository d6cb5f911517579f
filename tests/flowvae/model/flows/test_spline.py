"""Rational-quadratic splines: the textbook, knots, edges, the tails, and the inverse."""

import pytest
import torch
from examples import random
from tolerances import assert_agrees, assert_close, assert_gradients, tolerance

from flowvae.model.flows.spline import edges, knots_of, num_parameters, spline, spline_inv
from flowvae.model.flows.spline_coupling import SplineCoupling

BOUND, NUM_BINS = 3.0, 5


def parameters(num, seed=0, size=1.0):
    return size * random(seed, num, num_parameters(NUM_BINS))


def test_zero_parameters_are_the_identity():
    x = 2 * BOUND * random(0, 200)
    y, log_slope = spline(torch.zeros(200, num_parameters(NUM_BINS)).double(), x, BOUND)
    assert_close(y, x, size=x.abs() + BOUND)
    assert_close(log_slope, torch.zeros_like(x), size=float(NUM_BINS))


def textbook(row, x):
    """arXiv:1906.04032, equations 4 and 5, for one point."""
    knots, values, slopes = (numbers[0] for numbers in knots_of(row[None], BOUND))
    k = int((x >= knots[1:-1]).sum())
    width, height = knots[k + 1] - knots[k], values[k + 1] - values[k]
    s, xi = height / width, (x - knots[k]) / width
    denominator = s + (slopes[k + 1] + slopes[k] - 2 * s) * xi * (1 - xi)
    y = values[k] + height * (s * xi**2 + slopes[k] * xi * (1 - xi)) / denominator
    slope = s**2 * (slopes[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + slopes[k] * (1 - xi) ** 2) / denominator**2
    return y, slope.log()


def test_textbook():
    rows, x = parameters(40), BOUND * torch.tanh(random(1, 40))
    expected = [torch.stack(results) for results in zip(*map(textbook, rows, x), strict=True)]
    assert_agrees(expected, lambda: spline(rows, x, BOUND), [rows, x])


@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
def test_slopes_are_those_of_autograd_and_the_inverse_inverts(size):
    rows, x = parameters(300, size=size), (1.5 * BOUND * random(1, 300)).requires_grad_()
    y, log_slope = spline(rows, x, BOUND)
    (slope,) = torch.autograd.grad(y.sum(), x)
    knot_sizes = torch.full_like(x, 1e4)  # rounding of a position in the narrowest bin of this size of parameters
    assert (slope > 0).all()
    assert_close(log_slope, slope.log(), size=knot_sizes)
    back, inverse_log_slope = spline_inv(rows, y.detach(), BOUND)
    steepness = knot_sizes * (-log_slope).exp().clamp_min(1)
    assert_close(back, x, size=steepness)
    assert_close(inverse_log_slope, -log_slope, size=steepness * 1e2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 10.0, 1e3])
def test_the_inverse_is_accurate_where_slopes_differ_by_orders_of_magnitude(size, dtype):
    """Up to the rounding of x, of size BOUND, and of y; the other root formula is off by 1e5 eps."""
    rows, y = parameters(5000, size=size).to(dtype), (BOUND * torch.tanh(random(1, 5000))).to(dtype)
    x, inverse_log_slope = spline_inv(rows, y, BOUND)
    again, log_slope = spline(rows, x, BOUND)
    steepest = torch.maximum(log_slope, -inverse_log_slope).exp()
    assert_close(again, y, size=BOUND * (1 + steepest))


@pytest.mark.parametrize("function", [spline, spline_inv])
def test_gradients_of_both_directions(function):
    rows, x = parameters(20).requires_grad_(), (2 * random(1, 20)).requires_grad_()
    assert_gradients(lambda rows, x: function(rows, x, BOUND), [rows, x], size=100.0)


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_gradients_at_knots_are_the_slopes(size):
    """Where a point leaves one bin for the next, in both directions."""
    rows = parameters(1, size=size).requires_grad_()
    knots, values, slopes = (numbers[0].detach() for numbers in knots_of(rows, BOUND))
    for function, points, expected in ((spline, knots, slopes), (spline_inv, values, 1 / slopes)):
        points = points.clone().requires_grad_()
        moved, log_slope = function(rows.expand(len(knots), -1), points, BOUND)
        (slope,) = torch.autograd.grad(moved.sum(), points, retain_graph=True)
        assert_close(slope, expected, size=1e4 * expected)
        gradients = torch.autograd.grad(moved.sum() + log_slope.sum(), [rows, points])
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_knots_and_ends():
    """Knots are mapped to their values with their slopes; at the ends the spline meets the identity, with slope 1."""
    rows = parameters(1)
    knots, values, slopes = (numbers[0] for numbers in knots_of(rows, BOUND))
    points = rows.expand(len(knots), -1)
    assert (knots.diff() > 0).all() and (values.diff() > 0).all()
    assert (knots[0], knots[-1], values[0], values[-1]) == (-BOUND, BOUND, -BOUND, BOUND)
    for (moved, log_slope), expected, sign in (
        (spline(points, knots, BOUND), values, 1),
        (spline_inv(points, values, BOUND), knots, -1),
    ):
        assert_close(moved, expected, size=torch.full_like(knots, 100.0))
        assert_close(log_slope, sign * slopes.log(), size=torch.full_like(knots, 1000.0))
    just_inside = torch.tensor([-1.0, 1.0]).double() * BOUND * (1 - 1e-12)
    moved, log_slope = spline(rows.expand(2, -1), just_inside, BOUND)
    assert (moved - just_inside).abs().max() < 1e-9 and log_slope.abs().max() < 1e-9


@pytest.mark.parametrize("function", [spline, spline_inv])
def test_tails_are_the_identity_with_finite_gradients(function):
    x = torch.tensor([-1e6, -BOUND, BOUND, BOUND + 1e-9, 1e30]).double().requires_grad_()
    rows = parameters(5).requires_grad_()
    y, log_slope = function(rows, x, BOUND)
    (y.sum() + log_slope.sum()).backward()
    assert torch.equal(y, x) and not log_slope.any()
    assert torch.equal(x.grad, torch.ones_like(x)) and not rows.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e1, 1e3])
@pytest.mark.parametrize("function", [spline, spline_inv])
def test_extreme_parameters_stay_finite_and_increasing(function, size, dtype):
    x = torch.linspace(-BOUND, BOUND, 401, dtype=dtype)
    for seed in range(20):
        row = parameters(1, seed, size).to(dtype).requires_grad_()
        points = x.clone().requires_grad_()
        y, log_slope = function(row.expand(401, -1), points, BOUND)
        (y.sum() + log_slope.sum()).backward()
        for values in (y, log_slope, row.grad, points.grad):
            assert values.isfinite().all()
        assert (y.diff() >= -tolerance(1e3, dtype=dtype)).all() and y.abs().max() <= BOUND * (1 + 1e-6)


def test_no_bin_is_empty():
    widths = edges(torch.tensor([[1e4, -1e4, 0.0]]), BOUND).diff()
    assert (widths > 0).all() and abs(widths.sum() - 2 * BOUND) < 1e-5


def test_one_dimension_is_refused():
    with pytest.raises(ValueError, match=r"at least 2 dimensions for spline_coupling .*got 1"):
        SplineCoupling((1,), 0, num_transforms=1, hidden_features=(4,), context=False, num_bins=3, bound=3.0)
