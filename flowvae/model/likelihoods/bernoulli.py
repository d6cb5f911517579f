"""Likelihood of binary pixels."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from flowvae.model.likelihoods.likelihood import Likelihood, LikelihoodConfig

INITIAL_LOGIT = -2.0  # P(1) = 0.12: in binarized digits about one pixel in eight is 1


class BernoulliConfig(LikelihoodConfig):
    """Independent bits."""

    name: Literal["bernoulli"] = "bernoulli"


class Bernoulli(Likelihood):
    """Independent binary pixels, parameterised by logits.

    Args:
        logits: log-odds of a pixel being 1, shape (*sample_shape, batch, C, H, W).
    """

    of_bits = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @classmethod
    def from_output(cls, output: Tensor, num_channels: int) -> "Bernoulli":
        """Use the decoder's output as the logits."""
        return cls(output)

    @staticmethod
    def initial_output(num_channels: int) -> Tensor:
        """Logits at the start of training, shape (num_channels,)."""
        return torch.full((num_channels,), INITIAL_LOGIT)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x|z) = sum over pixels of x l - softplus(l), in nats.

        Args:
            x: images in {0, 1}, shape (batch, C, H, W).

        Returns:
            Shape (*sample_shape, batch).
        """
        return (x * self.logits - softplus(self.logits)).sum((-3, -2, -1))

    @property
    def mean(self) -> Tensor:
        """P(pixel = 1), shape of the logits."""
        return torch.sigmoid(self.logits)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw bits, shape of the logits."""
        return torch.bernoulli(self.mean, generator=generator)
