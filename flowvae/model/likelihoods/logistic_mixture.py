"""Likelihood of 8-bit pixels: mixtures of rounded logistic variables, with channels that depend on each other."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from flowvae.config import PositiveInt
from flowvae.model.likelihoods.likelihood import Likelihood, LikelihoodConfig
from flowvae.model.likelihoods.logistic import (
    INITIAL_LOG_SCALE,
    bounded_log_scale,
    clipped_mean,
    draw_level,
    log_level_prob,
    to_unit,
)

NUM_COLORS = 3
SLOPES = ((1, 0), (2, 0), (2, 1))  # (channel, earlier channel on which it depends), in the order of the slopes


class LogisticMixtureConfig(LikelihoodConfig):
    """8-bit values, each of a mixture of rounded logistic variables, arXiv:1701.05517, sections 2.1 and 2.2.

    Attributes:
        num_mixtures: components of each pixel.
    """

    name: Literal["logistic_mixture"] = "logistic_mixture"
    num_mixtures: PositiveInt = 5


class LogisticMixture(Likelihood):
    """Every pixel is a mixture of discretized logistics; all channels of a pixel share its component.

    Salimans et al. 2017, arXiv:1701.05517, section 2.1. Within a component, green's loc depends linearly on the
    value of red, and blue's on those of red and green (section 2.2).

    Args:
        logits: of the K components, shape (*sample_shape, batch, K, H, W).
        locs: one per channel, on the scale of [-1, 1], same shape.
        log_scales: one per channel, same shape.
        slopes: of green on red, blue on red, and blue on green, same shape; empty if the channels are independent given
            the component.
    """

    of_bits = False

    def __init__(
        self, logits: Tensor, locs: Sequence[Tensor], log_scales: Sequence[Tensor], slopes: Sequence[Tensor]
    ) -> None:
        self.logits, self.locs, self.log_scales, self.slopes = logits, locs, log_scales, slopes

    @classmethod
    def from_output(cls, output: Tensor, num_channels: int, *, num_mixtures: int) -> "LogisticMixture":
        """Split the output into groups of K: logits, locs and unbounded log-scales of each channel, unbounded slopes.

        Args:
            output: shape (*sample_shape, batch, 10K, H, W) for colour, else (..., (1 + 2C)K, H, W).
            num_channels: C; three are red, green and blue.
            num_mixtures: K.
        """
        groups = output.contiguous().unflatten(-3, (-1, num_mixtures)).unbind(-4)
        logits, locs = groups[0], groups[1 : 1 + num_channels]
        raw_scales, raw_slopes = groups[1 + num_channels : 1 + 2 * num_channels], groups[1 + 2 * num_channels :]
        return cls(logits, locs, [bounded_log_scale(raw) for raw in raw_scales], [raw.tanh() for raw in raw_slopes])

    @staticmethod
    def initial_output(num_channels: int, *, num_mixtures: int) -> Tensor:
        """Output at the start of training: equal components, spread evenly over the middle half of the range.

        Returns:
            Shape (10 num_mixtures,) for colour, else ((1 + 2 num_channels) num_mixtures,).
        """
        centers = (torch.arange(num_mixtures) + 0.5) / num_mixtures - 0.5
        zeros, scale = torch.zeros(num_mixtures), torch.full((num_mixtures,), INITIAL_LOG_SCALE)
        num_slopes = len(SLOPES) if num_channels == NUM_COLORS else 0
        return torch.cat((zeros, *[centers] * num_channels, *[scale] * num_channels, *[zeros] * num_slopes))

    def loc_given(self, channel: int, before: Sequence[Tensor]) -> Tensor:
        """loc of a channel in every component, given the values of earlier channels, shape (..., K, H, W)."""
        loc = self.locs[channel]
        for (dependent, earlier), slope in zip(SLOPES, self.slopes):
            if dependent == channel:
                loc = loc + slope * before[earlier]
        return loc

    def channel_by_channel(self, draw: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        """Call `draw(loc, log_scale)` for every channel in turn, with the loc given the results of earlier channels."""
        drawn: list[Tensor] = []
        for channel, log_scale in enumerate(self.log_scales):
            drawn.append(draw(self.loc_given(channel, drawn), log_scale))
        return drawn

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x|z) in nats: the sum over pixels of log sum_k pi_k prod_c p(x_c | x_<c, k).

        Args:
            x: images of values k / 255, shape (batch, C, H, W).

        Returns:
            Shape (*sample_shape, batch).
        """
        channels = (2 * x.contiguous() - 1).unsqueeze(-3).unbind(-4)  # (batch, 1, H, W) each
        log_probs = sum(
            log_level_prob(channels[i], self.loc_given(i, channels), log_scale)
            for i, log_scale in enumerate(self.log_scales)
        )  # (*sample_shape, batch, K, H, W)
        return torch.logsumexp(self.logits.log_softmax(-3) + log_probs, dim=-3).sum((-2, -1))

    @property
    def mean(self) -> Tensor:
        """Mean over components of the channels' means, each given the means of earlier channels.

        The means are those of variables clipped to the range instead of rounded.
        """
        weights = self.logits.softmax(-3)
        means = [(weights * mean).sum(-3) for mean in self.channel_by_channel(clipped_mean)]
        return to_unit(torch.stack(means, dim=-3)).clamp(0, 1)  # the weights sum to 1 up to rounding

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw a component per pixel, then its channels in turn.

        Returns:
            Values k / 255, shape (*sample_shape, batch, C, H, W).
        """
        race = self.logits - torch.empty_like(self.logits).exponential_(generator=generator).log()
        chosen = race.argmax(-3, keepdim=True)
        locs, log_scales, slopes = (
            [values.gather(-3, chosen) for values in group] for group in (self.locs, self.log_scales, self.slopes)
        )
        one_component = LogisticMixture(self.logits, locs, log_scales, slopes)
        return to_unit(torch.cat(one_component.channel_by_channel(partial(draw_level, generator=generator)), dim=-3))
