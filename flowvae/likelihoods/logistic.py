"""Independent 8-bit values x = k / 255, each a rounded logistic variable on the scale of 2x - 1, in [-1, 1]."""

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from flowvae.config import Config
from flowvae.likelihoods.likelihood import Likelihood


class DiscretizedLogisticConfig(Config):
    name: Literal["discretized_logistic"]


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
        """From loc and unbounded log-scale of every channel, shape (*sample_shape, batch, 2C, H, W)."""
        loc, raw = output.chunk(2, dim=-3)
        return cls(loc, bounded(raw))

    @staticmethod
    def initial_output(num_channels: int) -> Tensor:
        """Where the decoder's output starts, shape (2 num_channels,): mid grey."""
        return torch.cat((torch.zeros(num_channels), torch.full((num_channels,), INITIAL_LOG_SCALE)))

    def log_prob(self, x: Tensor) -> Tensor:
        """Sum of `log_level_prob` over pixels and channels, x = k / 255."""
        return log_level_prob(2 * x - 1, self.loc, self.log_scale).sum((-3, -2, -1))

    @property
    def mean(self) -> Tensor:
        """Of the variables clipped to the range, instead of rounded, shape of loc."""
        return to_unit(clipped_mean(self.loc, self.log_scale))

    def sample(self, generator: torch.Generator) -> Tensor:
        """Values k / 255, shape of loc."""
        return to_unit(draw_level(self.loc, self.log_scale, generator=generator))


def log_level_prob(x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """log P of the level x under a logistic variable rounded to the 256 levels of [-1, 1], in nats, elementwise.

    P is a difference of sigmoids at the edges a > b of the level's bin, where the first bin has b = -inf and the
    last a = inf. Here sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), where nothing cancels in the
    tails. a - b is the width of the bin over the scale, 0.001 at least, so 1 - exp(b - a) has four digits in float32.

    Args:
        x: levels 2k / 255 - 1, without a gradient.
        loc: of the logistic.
        log_scale: of the logistic, at most MAX_LOG_SCALE: under a wider one a bin is too narrow for float32.
    """
    return _LogLevelProb.apply(x, loc, log_scale)


class _LogLevelProb(torch.autograd.Function):
    """With its gradient by hand, which takes half the time; forward in exp and log alone, the fastest there are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        first, last = x < HALF_BIN - 1, x > 1 - HALF_BIN
        precision = torch.exp(-log_scale)
        centre, half_width = (x - loc) * precision, HALF_BIN * precision
        above = (half_width + centre).masked_fill_(last, math.inf)  # a
        below = (half_width - centre).masked_fill_(first, math.inf)  # -b
        rest = torch.exp(-2 * half_width)  # of the factor 1 - rest
        ctx.save_for_backward(first | last, precision, centre, above, below, rest)
        ctx.shapes = loc.shape, log_scale.shape
        tails = (1 + torch.exp(-above.abs())) * (1 + torch.exp(-below.abs()))
        log_width = torch.log(1 - rest).masked_fill(first | last, 0)
        return log_width + above.clamp(max=0) + below.clamp(max=0) - torch.log(tails)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        at_edge, precision, centre, above, below, rest = ctx.saved_tensors
        of_above, of_below = torch.sigmoid(-above), torch.sigmoid(-below)
        of_centre = of_above - of_below
        of_half_width = of_above + of_below + (2 * rest / (1 - rest)).masked_fill(at_edge, 0)
        of_log_scale = -(of_centre * centre + of_half_width * (HALF_BIN * precision))
        return (
            None,
            (-grad * precision * of_centre).sum_to_size(ctx.shapes[0]),
            (grad * of_log_scale).sum_to_size(ctx.shapes[1]),
        )


def clipped_mean(loc: Tensor, log_scale: Tensor) -> Tensor:
    """Mean of a logistic variable clipped to [-1, 1], which differs from that of the rounded one by less than a level.

    It is the integral over [-1, 1] of P(value > t), less 1; written so that it is exact for far locs too.
    """
    scale = log_scale.exp()
    distance = loc.abs()
    gap = scale * (softplus((1 - distance) / scale) - softplus((-1 - distance) / scale))
    return loc.sign() * (1 - gap).clamp(0, 1)


def draw_level(loc: Tensor, log_scale: Tensor, *, generator: torch.Generator) -> Tensor:
    """A logistic variable rounded to the 256 levels of [-1, 1]; the logistic is a log ratio of exponentials."""
    above, below = (torch.empty_like(loc).exponential_(generator=generator).log() for _ in range(2))
    value = loc + log_scale.exp() * (above - below)
    return 2 * (to_unit(value).clamp(0, 1) * MAX_LEVEL).round() / MAX_LEVEL - 1


def bounded(raw: Tensor) -> Tensor:
    """A log-scale between -7, a scale of a ninth of a bin, and 2, where most of the mass is beyond both edges.

    The identity half way between them, and smooth: min + (max - min) sigmoid.
    """
    middle, span = (MAX_LOG_SCALE + MIN_LOG_SCALE) / 2, MAX_LOG_SCALE - MIN_LOG_SCALE
    return MIN_LOG_SCALE + span * torch.sigmoid((raw - middle) * (4 / span))


def to_unit(value: Tensor) -> Tensor:
    """From [-1, 1] to [0, 1]."""
    return (value + 1) / 2


MAX_LEVEL = 255
HALF_BIN = 1 / MAX_LEVEL  # levels are 2 / 255 apart
MIN_LOG_SCALE, MAX_LOG_SCALE = -7.0, 2.0
INITIAL_LOG_SCALE = -1.0  # about a fifth of the range
