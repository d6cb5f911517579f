"""Likelihoods p(x|z) over images."""

import torch
from torch import Tensor
from torch.nn.functional import softplus


class Bernoulli:
    """Independent binary pixels, given by logits.

    Args:
        logits: log-odds of a pixel being 1, shape (*sample_shape, batch, C, H, W).
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

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
