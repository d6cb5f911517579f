"""Independent 8-bit values x = k / 255, each a rounded logistic variable on the scale of 2x - 1, in [-1, 1]."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

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
    last a = inf. Since sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), and a - b is the width of
    the bin over the scale, no two close numbers are ever subtracted.

    Args:
        x: levels 2k / 255 - 1.
        loc: of the logistic.
        log_scale: of the logistic.
    """
    precision = torch.exp(-log_scale)
    centre, half_width = (x - loc) * precision, HALF_BIN * precision
    first, last = x < HALF_BIN - 1, x > 1 - HALF_BIN
    log_width = torch.log(-torch.expm1(-2 * half_width))
    return (
        logsigmoid(half_width + centre).masked_fill(last, 0)
        + logsigmoid(half_width - centre).masked_fill(first, 0)
        + torch.where(first | last, 0, log_width)
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
    """A log-scale between -7 and 7, so that a scale is a ninth of a bin at least."""
    return LOG_SCALE_BOUND * torch.tanh(raw / LOG_SCALE_BOUND)


def to_unit(value: Tensor) -> Tensor:
    """From [-1, 1] to [0, 1]."""
    return (value + 1) / 2


MAX_LEVEL = 255
HALF_BIN = 1 / MAX_LEVEL  # levels are 2 / 255 apart
LOG_SCALE_BOUND = 7.0
INITIAL_LOG_SCALE = -1.0  # about a fifth of the range
