"""The contract of a likelihood p(x|z) over images."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Likelihood(ABC):
    """A distribution over images given their latents; `of_bits`: over bits instead of 8-bit values."""

    of_bits: ClassVar[bool]

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x|z) in nats: images of shape (batch, C, H, W) -> shape (*sample_shape, batch)."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Expected image, in [0, 1], shape (*sample_shape, batch, C, H, W)."""

    @abstractmethod
    def sample(self, generator: torch.Generator) -> Tensor:
        """One image per latent, shape (*sample_shape, batch, C, H, W)."""
