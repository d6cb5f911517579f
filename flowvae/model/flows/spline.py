"""Monotonic rational-quadratic splines: Durkan et al. 2019, arXiv:1906.04032, section 3.1.

A spline maps [-bound, bound] to itself through num_bins bins, and is the identity outside. It has 3 num_bins - 1
parameters: widths and heights of the bins, and slopes at the knots between them; at the ends the slope is 1.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

MIN_SHARE = 1e-3  # of a bin in the interval, times the number of bins
MIN_SLOPE = 1e-3  # at a knot
SLOPE_SHIFT = math.log(math.expm1(1 - MIN_SLOPE))  # so that a parameter of 0 is a slope of 1


def num_parameters(num_bins: int) -> int:
    """Parameters of one spline."""
    return 3 * num_bins - 1


class Bin(NamedTuple):
    """The bin of each point: left and lower edge, width and height, and the slopes at both edges."""

    left: Tensor
    low: Tensor
    width: Tensor
    height: Tensor
    slope: Tensor
    next_slope: Tensor

    @property
    def chord(self) -> Tensor:
        """Height over width."""
        return self.height / self.width

    def log_slope(self, position: Tensor) -> Tensor:
        """ln of the slope at a position in the bin, from 0 to 1 (arXiv:1906.04032, equation 5)."""
        rest, chord = 1 - position, self.chord
        numerator = self.next_slope * position.square() + 2 * chord * position * rest + self.slope * rest.square()
        return 2 * chord.log() + numerator.log() - 2 * self.denominator(position).log()

    def denominator(self, position: Tensor) -> Tensor:
        """Denominator of the spline, as a sum of positive terms."""
        product = position * (1 - position)
        return self.chord * (1 - 2 * product) + (self.slope + self.next_slope) * product


def spline(parameters: Tensor, x: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Map points by one spline each.

        y = low + height (chord xi^2 + slope xi (1 - xi)) / denominator(xi),  xi = (x - left) / width

    arXiv:1906.04032, equation 4. With all parameters 0 this is the identity.

    Args:
        parameters: shape (*shape, 3 num_bins - 1).
        x: shape (*shape,).
        bound: end of the interval outside which the spline is the identity.

    Returns:
        y and ln dy/dx, shape of x.
    """
    inside = x.clamp(-bound, bound)
    knots, values, slopes = knots_of(parameters, bound)
    found = bin_at(knots, values, slopes, inside, knots)
    position = (inside - found.left) / found.width
    numerator = found.chord * position.square() + found.slope * position * (1 - position)
    y = found.low + found.height * numerator / found.denominator(position)
    return choose(x, bound, y, found.log_slope(position))


def spline_inv(parameters: Tensor, y: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Invert `spline`: xi is a root of a quadratic (arXiv:1906.04032, equations 6 to 8).

    With r = (y - low) / height and q = slope (1 - r) - next_slope r, the root of the discriminant is
    root = sqrt(q^2 + 4 chord^2 r (1 - r)), and both forms of the solution

        xi = 2 chord r / (root + q + 2 chord r) = (root - q) / (root - q + 2 chord (1 - r))

    are free of cancellation: the first where q >= 0, the second elsewhere.

    Args:
        parameters, bound: as for `spline`.
        y: shape (*shape,).

    Returns:
        x and ln dx/dy, shape of y.
    """
    inside = y.clamp(-bound, bound)
    knots, values, slopes = knots_of(parameters, bound)
    found = bin_at(knots, values, slopes, inside, values)
    rise = (inside - found.low) / found.height
    q = found.slope * (1 - rise) - found.next_slope * rise
    below, above = 2 * found.chord * rise, 2 * found.chord * (1 - rise)
    summed = q.abs() + (q.square() + below * above).sqrt()  # positive terms
    position = torch.where(q >= 0, below / (summed + below), summed / (summed + above))
    x, log_slope = found.left + found.width * position, found.log_slope(position)
    return choose(y, bound, x, -log_slope)


def choose(x: Tensor, bound: float, moved: Tensor, log_slope: Tensor) -> tuple[Tensor, Tensor]:
    """The results of the spline inside the interval, and of the identity outside."""
    inside = x.abs() < bound
    return torch.where(inside, moved, x), torch.where(inside, log_slope, 0)


def knots_of(parameters: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """Positions and values of the knots, ends included, and their slopes, shape (*shape, num_bins + 1) each."""
    num_bins = (parameters.shape[-1] + 1) // 3
    widths, heights, slopes = parameters.split((num_bins, num_bins, num_bins - 1), dim=-1)
    slopes = pad(MIN_SLOPE + softplus(slopes + SLOPE_SHIFT), (1, 1), value=1.0)
    return edges(widths, bound), edges(heights, bound), slopes


def edges(raw: Tensor, bound: float) -> Tensor:
    """Edges of bins whose shares of [-bound, bound] are a softmax, of which no share is 0."""
    softmax = raw.movedim(-1, 0).softmax(0).movedim(0, -1)  # torch is several times slower over a short last axis
    shares = MIN_SHARE / raw.shape[-1] + (1 - MIN_SHARE) * softmax
    inner = bound * (2 * shares.cumsum(-1)[..., :-1] - 1)
    return pad(pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


def bin_at(knots: Tensor, values: Tensor, slopes: Tensor, points: Tensor, axis: Tensor) -> Bin:
    """The bin of each point, which lies between two entries of `axis`: the knots or their values.

    Its position in the bin is from 0 to 1 also after rounding, which keeps the order of differences. To clamp it would
    set the gradient at knots to 0.
    """
    index = (points[..., None] >= axis[..., 1:-1]).sum(-1, keepdim=True)
    left, low, slope = (edge.gather(-1, index)[..., 0] for edge in (knots, values, slopes))
    right, high, next_slope = (edge.gather(-1, index + 1)[..., 0] for edge in (knots, values, slopes))
    return Bin(left, low, right - left, high - low, slope, next_slope)
