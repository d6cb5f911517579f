"""The contract of a family of normalizing flows: its settings, and the module that is built from them."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from flowvae.config import Config, NonNegativeInt
from flowvae.model.transforms import Transform


class FlowConfig(Config):
    """Settings that every family has; `flow` is the name of its entry in FLOWS."""

    flow: str
    num_transforms: NonNegativeInt


class Flow(nn.Module, ABC):
    """A module that returns a transform for each context.

    It is built from (latent_shape, context_features, **settings), where context_features is the size of the context
    that the encoder can provide, and the settings are the fields of the family's config except `flow`.

    Attributes:
        context_features: size of the context that the flow uses, 0 for none.
    """

    context_features: int

    @abstractmethod
    def forward(self, context: Tensor) -> Transform:
        """Return the transform from z0 to zK for a context, shape (batch, context_features)."""


class FlowEntry(NamedTuple):
    """A family: its settings and its module."""

    config: type[FlowConfig]
    module: type[Flow]
