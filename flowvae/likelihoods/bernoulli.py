"""Independent bits."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from flowvae.config import Config
from flowvae.likelihoods.likelihood import Likelihood


class BernoulliConfig(Config):
    name: Literal["bernoulli"]


class Bernoulli(Likelihood):
    """Independent binary pixels, given by logits.

    Args:
        logits: log-odds of a pixel being 1, shape (*sample_shape, batch, C, H, W).
    """

    of_bits = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @classmethod
    def from_output(cls, output: Tensor, num_channels: int) -> "Bernoulli":
        """The decoder's output are the logits."""
        return cls(output)

    @staticmethod
    def initial_output(num_channels: int) -> Tensor:
        """Where the decoder's output starts, shape (num_channels,)."""
        return torch.full((num_channels,), INITIAL_LOGIT)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x|z) = sum over pixels of x l - softplus(l), in nats.

        Args:
            x: images in {0, 1}, shape (batch, C, H, W).

        Returns:
            shape (*sample_shape, batch).
        """
        return (x * self.logits - softplus(self.logits)).sum((-3, -2, -1))

    @property
    def mean(self) -> Tensor:
        """P(pixel = 1), shape of the logits."""
        return torch.sigmoid(self.logits)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Bits, shape of the logits."""
        return torch.bernoulli(self.mean, generator=generator)


INITIAL_LOGIT = -2.0  # binarized digits are about one eighth ink
