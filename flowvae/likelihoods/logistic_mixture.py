"""8-bit pixels as mixtures of rounded logistic variables, with channels that depend on each other."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from flowvae.config import Config, PositiveInt
from flowvae.likelihoods.likelihood import Likelihood
from flowvae.likelihoods.logistic import (
    INITIAL_LOG_SCALE,
    bounded,
    clipped_mean,
    draw_level,
    log_level_prob,
    to_unit,
)


class LogisticMixtureConfig(Config):
    name: Literal["logistic_mixture"]
    num_mixtures: PositiveInt


class LogisticMixture(Likelihood):
    """Every pixel is a mixture of discretized logistics, whose component all channels of the pixel share.

    Salimans et al. 2017, arXiv:1701.05517, section 2.1. In a component, green's loc depends linearly on the
    value of red, and blue's on those of red and green (section 2.2).

    Args:
        logits: of the K components, shape (*sample_shape, batch, K, H, W).
        locs: of each of the C channels, on the scale of [-1, 1], same shape.
        log_scales: of each of the channels.
        slopes: of green on red, blue on red, blue on green; none for channels that are independent given the component.
    """

    of_bits = False

    def __init__(
        self, logits: Tensor, locs: Sequence[Tensor], log_scales: Sequence[Tensor], slopes: Sequence[Tensor]
    ) -> None:
        self.logits, self.locs, self.log_scales, self.slopes = logits, locs, log_scales, slopes

    @classmethod
    def from_output(cls, output: Tensor, num_channels: int, *, num_mixtures: int) -> "LogisticMixture":
        """From groups of K outputs: logits, locs and unbounded log-scales of each channel, and unbounded slopes.

        Args:
            output: shape (*sample_shape, batch, 10K, H, W) for colour, else (..., (1 + 2C)K, H, W).
            num_channels: C; three are red, green and blue.
            num_mixtures: K.
        """
        groups = output.contiguous().unflatten(-3, (-1, num_mixtures)).unbind(-4)
        logits, locs = groups[0], groups[1 : 1 + num_channels]
        raw, slopes = groups[1 + num_channels : 1 + 2 * num_channels], groups[1 + 2 * num_channels :]
        return cls(logits, locs, [bounded(part) for part in raw], [slope.tanh() for slope in slopes])

    @staticmethod
    def initial_output(num_channels: int, *, num_mixtures: int) -> Tensor:
        """Where the decoder's output starts: equal components, spread evenly over the middle half of the range."""
        centres = (torch.arange(num_mixtures) + 0.5) / num_mixtures - 0.5
        equal, scale = torch.zeros(num_mixtures), torch.full((num_mixtures,), INITIAL_LOG_SCALE)
        num_slopes = len(PAIRS) if num_channels == COLOURS else 0
        return torch.cat((equal, *[centres] * num_channels, *[scale] * num_channels, *[equal] * num_slopes))

    def loc_given(self, channel: int, before: Sequence[Tensor]) -> Tensor:
        """loc of a channel in every component, given the channels before it, shape (..., K, H, W)."""
        pairs = zip(PAIRS, self.slopes)
        return sum((slope * before[other] for (one, other), slope in pairs if one == channel), start=self.locs[channel])

    def one_by_one(self, draw: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        """`draw(loc, log_scale)` of every channel, given what was drawn for those before it."""
        drawn: list[Tensor] = []
        for channel, log_scale in enumerate(self.log_scales):
            drawn.append(draw(self.loc_given(channel, drawn), log_scale))
        return drawn

    def log_prob(self, x: Tensor) -> Tensor:
        """Sum over pixels of log sum_k pi_k prod_c p(x_c | x_<c, k), x = k / 255, in nats."""
        channels = (2 * x - 1).unsqueeze(-3).unbind(-4)  # (batch, 1, H, W) each
        log_probs = sum(
            log_level_prob(channels[i], self.loc_given(i, channels), log_scale)
            for i, log_scale in enumerate(self.log_scales)
        )  # (*sample_shape, batch, K, H, W)
        return torch.logsumexp(self.logits.log_softmax(-3) + log_probs, dim=-3).sum((-2, -1))

    @property
    def mean(self) -> Tensor:
        """Mean over components of the channels' means, each given the means of those before it.

        Of variables that are clipped to the range, instead of rounded.
        """
        weights = self.logits.softmax(-3)
        means = [(weights * part).sum(-3) for part in self.one_by_one(clipped_mean)]
        return to_unit(torch.stack(means, dim=-3)).clamp(0, 1)  # the weights sum to 1 but for rounding

    def sample(self, generator: torch.Generator) -> Tensor:
        """A component per pixel, then its channels one after another; values k / 255."""
        race = self.logits - torch.empty_like(self.logits).exponential_(generator=generator).log()
        chosen = race.argmax(-3, keepdim=True)
        parts = ([part.gather(-3, chosen) for part in several] for several in (self.locs, self.log_scales, self.slopes))
        one = LogisticMixture(self.logits, *parts)  # its components are one
        return to_unit(torch.cat(one.one_by_one(partial(draw_level, generator=generator)), dim=-3))


COLOURS = 3
PAIRS = ((1, 0), (2, 0), (2, 1))  # which channel depends on which
