"""The contract of a likelihood p(x|z) over images."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from flowvae.config import Config


class LikelihoodConfig(Config):
    """Settings that every likelihood has; `name` is the name of its entry in LIKELIHOODS."""

    name: str


class Likelihood(ABC):
    """A distribution over images given their latents.

    The settings below are the fields of the likelihood's config except `name`.

    Attributes:
        of_bits: whether pixels are bits, not 8-bit values.
        from_output: (output, num_channels, **settings) -> the likelihood, given the decoder's output of P parameters
            per pixel, shape (*sample_shape, batch, P, H, W).
        initial_output: (num_channels, **settings) -> the decoder's output at the start of training, shape (P,).
    """

    of_bits: ClassVar[bool]
    from_output: ClassVar[Callable[..., "Likelihood"]]
    initial_output: ClassVar[Callable[..., Tensor]]

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x|z) in nats, shape (*sample_shape, batch), of images x, shape (batch, C, H, W)."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Expected image, in [0, 1], shape (*sample_shape, batch, C, H, W)."""

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw one image per latent, shape (*sample_shape, batch, C, H, W); without a generator, from torch's."""
