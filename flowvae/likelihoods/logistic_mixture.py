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
        loc: on the scale of [-1, 1], shape (*sample_shape, batch, K, C, H, W).
        log_scale: same shape.
        slopes: of green on red, blue on red, blue on green, shape (*sample_shape, batch, K, 3, H, W);
            None for channels that are independent given the component.
    """

    of_bits = False

    def __init__(self, logits: Tensor, loc: Tensor, log_scale: Tensor, slopes: Tensor | None) -> None:
        self.logits, self.loc, self.log_scale, self.slopes = logits, loc, log_scale, slopes

    @classmethod
    def from_output(cls, output: Tensor, num_channels: int, *, num_mixtures: int) -> "LogisticMixture":
        """From K logits, then for every component C locs and C unbounded log-scales, and in colour 3 unbounded slopes.

        Args:
            output: shape (*sample_shape, batch, 10K, H, W) for colour, else (..., (1 + 2C)K, H, W).
            num_channels: C; three are red, green and blue.
            num_mixtures: K.
        """
        logits, *parts = output.split([num_mixtures * count for count in counts(num_channels)], dim=-3)
        loc, raw, *slopes = (part.unflatten(-3, (num_mixtures, -1)) for part in parts)
        return cls(logits, loc, bounded(raw), slopes[0].tanh() if slopes else None)

    @staticmethod
    def initial_output(num_channels: int, *, num_mixtures: int) -> Tensor:
        """Where the decoder's output starts: equal components, spread evenly over the middle half of the range."""
        centres = (torch.arange(num_mixtures) + 0.5) / num_mixtures - 0.5
        starts = (torch.zeros(num_mixtures, 1), centres[:, None], torch.full((num_mixtures, 1), INITIAL_LOG_SCALE))
        starts += (torch.zeros(num_mixtures, 1),)
        parts = zip(starts, counts(num_channels), strict=False)
        return torch.cat([start.expand(-1, count).flatten() for start, count in parts])

    def loc_given(self, channel: int, before: Sequence[Tensor]) -> Tensor:
        """loc of a channel in every component, given the channels before it, shape (..., K, H, W)."""
        loc = self.loc[..., channel, :, :]
        if self.slopes is None:
            return loc
        first = channel * (channel - 1) // 2
        return sum((self.slopes[..., first + i, :, :] * x for i, x in enumerate(before[:channel])), start=loc)

    def one_by_one(self, draw: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """`draw(loc, log_scale)` of every channel, given what was drawn for those before it, shape of loc."""
        drawn: list[Tensor] = []
        for channel in range(self.loc.shape[-3]):
            drawn.append(draw(self.loc_given(channel, drawn), self.log_scale[..., channel, :, :]))
        return torch.stack(drawn, dim=-3)

    def log_prob(self, x: Tensor) -> Tensor:
        """Sum over pixels of log sum_k pi_k prod_c p(x_c | x_<c, k), x = k / 255, in nats."""
        channels = (2 * x - 1).unsqueeze(-4).unbind(-3)
        log_probs = sum(
            log_level_prob(value, self.loc_given(channel, channels), self.log_scale[..., channel, :, :])
            for channel, value in enumerate(channels)
        )  # (*sample_shape, batch, K, H, W)
        return torch.logsumexp(self.logits.log_softmax(-3) + log_probs, dim=-3).sum((-2, -1))

    @property
    def mean(self) -> Tensor:
        """Mean over components of the channels' means, each given the means of those before it.

        Of variables that are clipped to the range, instead of rounded.
        """
        return to_unit((self.logits.softmax(-3).unsqueeze(-3) * self.one_by_one(clipped_mean)).sum(-4))

    def sample(self, generator: torch.Generator) -> Tensor:
        """A component per pixel, then its channels one after another; values k / 255."""
        race = self.logits - torch.empty_like(self.logits).exponential_(generator=generator).log()
        chosen = race.argmax(-3, keepdim=True).unsqueeze(-3)  # (..., 1, 1, H, W)
        loc, log_scale = (torch.take_along_dim(value, chosen, dim=-4) for value in (self.loc, self.log_scale))
        slopes = None if self.slopes is None else torch.take_along_dim(self.slopes, chosen, dim=-4)
        one = LogisticMixture(self.logits, loc, log_scale, slopes)
        return to_unit(one.one_by_one(partial(draw_level, generator=generator)).squeeze(-4))


def counts(num_channels: int) -> tuple[int, ...]:
    """Numbers of logits, locs, log-scales and, in colour, slopes per component of a mixture."""
    return (1, num_channels, num_channels, *((3,) if num_channels == COLOURS else ()))


COLOURS = 3
