"""Likelihood of independent 8-bit values: logistic variables rounded to levels.

A pixel is x = k / 255, and the logistic variable is on the scale of 2x - 1, in [-1, 1].
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from flowvae.config import MAX_PIXEL
from flowvae.model.likelihoods.likelihood import Likelihood, LikelihoodConfig

HALF_BIN = 1 / MAX_PIXEL  # levels are 2 / 255 apart
MIN_LOG_SCALE, MAX_LOG_SCALE = -7.0, 2.0
INITIAL_LOG_SCALE = -1.0  # a scale of about a fifth of the range


class DiscretizedLogisticConfig(LikelihoodConfig):
    """Independent 8-bit values, each a rounded logistic variable: arXiv:1701.05517, section 2.1, with one component."""

    name: Literal["discretized_logistic"] = "discretized_logistic"


class DiscretizedLogistic(Likelihood):
    """Independent 8-bit values, each a logistic variable rounded to the nearest of the 256 levels.

    Salimans et al. 2017, arXiv:1701.05517, section 2.1, with one component.

    Args:
        loc: on the scale of [-1, 1], shape (*sample_shape, batch, C, H, W).
        log_scale: same shape.
    """

    of_bits = False

    def __init__(self, loc: Tensor, log_scale: Tensor) -> None:
        self.loc, self.log_scale = loc, log_scale

    @classmethod
    def from_output(cls, output: Tensor, num_channels: int) -> "DiscretizedLogistic":
        """Split the output, shape (*sample_shape, batch, 2C, H, W), into loc and unbounded log-scale."""
        loc, raw = output.chunk(2, dim=-3)
        return cls(loc, bounded_log_scale(raw))

    @staticmethod
    def initial_output(num_channels: int) -> Tensor:
        """Output at the start of training, mid grey, shape (2 num_channels,)."""
        return torch.cat((torch.zeros(num_channels), torch.full((num_channels,), INITIAL_LOG_SCALE)))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x|z) in nats: the sum of `log_level_prob` over pixels and channels.

        Args:
            x: images of values k / 255, shape (batch, C, H, W).

        Returns:
            Shape (*sample_shape, batch).
        """
        return log_level_prob(2 * x - 1, self.loc, self.log_scale).sum((-3, -2, -1))

    @property
    def mean(self) -> Tensor:
        """Mean of the logistic variables clipped to the range instead of rounded, shape of loc."""
        return to_unit(clipped_mean(self.loc, self.log_scale))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw values k / 255, shape of loc."""
        return to_unit(draw_level(self.loc, self.log_scale, generator=generator))


def log_level_prob(x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """Compute log P of the level x under a logistic variable rounded to the 256 levels of [-1, 1].

    P is a difference of sigmoids at the edges a > b of the level's bin; the first bin has b = -inf, the last bin
    a = inf. It is computed as sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which has no
    cancellation in the tails. a - b is the width of the bin divided by the scale, at least 0.001, so 1 - exp(b - a) is
    accurate to four digits in float32.

    Args:
        x: levels 2k / 255 - 1; no gradient flows to them.
        loc: of the logistic variable.
        log_scale: of the logistic variable, at most MAX_LOG_SCALE; with a larger one bins are too narrow for float32.

    Returns:
        Elementwise log probability in nats, of the broadcast shape.
    """
    return _LogLevelProb.apply(x, loc, log_scale)


class _LogLevelProb(torch.autograd.Function):
    """`log_level_prob` with an explicit gradient, which takes half the time of autograd's.

    The forward pass uses only exp and log, which are the fastest of the functions that could be used. Every
    step keeps the memory layout of the arguments, as masked_fill would not.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        first, last = x < HALF_BIN - 1, x > 1 - HALF_BIN
        precision = torch.exp(-log_scale)
        center, half_width = (x - loc) * precision, HALF_BIN * precision
        above = (half_width + center).masked_fill_(last, math.inf)  # a
        below = (half_width - center).masked_fill_(first, math.inf)  # -b
        exp_width = torch.exp(-2 * half_width)  # exp(b - a)
        ctx.save_for_backward(first | last, precision, center, above, below, exp_width)
        ctx.shapes = loc.shape, log_scale.shape
        tails = (1 + torch.exp(-above.abs())) * (1 + torch.exp(-below.abs()))
        log_width = torch.where(first | last, 0, torch.log(1 - exp_width))
        return log_width + above.clamp(max=0) + below.clamp(max=0) - torch.log(tails)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        at_edge, precision, center, above, below, exp_width = ctx.saved_tensors
        # Derivatives of log P with respect to each of the forward pass's variables.
        d_above, d_below = torch.sigmoid(-above), torch.sigmoid(-below)
        d_center = d_above - d_below
        d_half_width = d_above + d_below + torch.where(at_edge, 0, 2 * exp_width / (1 - exp_width))
        d_log_scale = -(d_center * center + d_half_width * (HALF_BIN * precision))
        return (
            None,
            (grad * -precision * d_center).sum_to_size(ctx.shapes[0]),
            (grad * d_log_scale).sum_to_size(ctx.shapes[1]),
        )


def clipped_mean(loc: Tensor, log_scale: Tensor) -> Tensor:
    """Mean of a logistic variable clipped to [-1, 1], which is within a level of that of the rounded variable.

    The mean is the integral of P(value > t) over t in [-1, 1], minus 1, written in a form that is also accurate if loc
    is far outside the range.
    """
    scale = log_scale.exp()
    distance = loc.abs()
    gap = scale * (softplus((1 - distance) / scale) - softplus((-1 - distance) / scale))
    return loc.sign() * (1 - gap).clamp(0, 1)


def draw_level(loc: Tensor, log_scale: Tensor, *, generator: torch.Generator | None) -> Tensor:
    """Draw a logistic variable, the log ratio of two exponential variables, rounded to the 256 levels of [-1, 1]."""
    numerator, denominator = (torch.empty_like(loc).exponential_(generator=generator).log() for _ in range(2))
    value = loc + log_scale.exp() * (numerator - denominator)
    return 2 * (to_unit(value).clamp(0, 1) * MAX_PIXEL).round() / MAX_PIXEL - 1


def bounded_log_scale(raw: Tensor) -> Tensor:
    """Map real numbers smoothly to log-scales between MIN_LOG_SCALE and MAX_LOG_SCALE, by min + (max - min) sigmoid.

    The smallest scale is about a ninth of a bin; with the largest, most of the mass is outside [-1, 1]. Halfway between
    the bounds the map has value and slope of the identity.
    """
    middle, span = (MAX_LOG_SCALE + MIN_LOG_SCALE) / 2, MAX_LOG_SCALE - MIN_LOG_SCALE
    return MIN_LOG_SCALE + span * torch.sigmoid((raw - middle) * (4 / span))


def to_unit(value: Tensor) -> Tensor:
    """Map [-1, 1] linearly to [0, 1]."""
    return (value + 1) / 2
