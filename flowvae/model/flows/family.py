"""The contract of a family of normalizing flows: its settings, and the module that is built from them."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from flowvae.config import MAX_TRANSFORMS, Config
from flowvae.model.transforms import Transform


class FlowConfig(Config):
    """Settings that every family has; `flow` is the name of its entry in FLOWS.

    `context_field` is the name of the field that says whether the flow depends on the context; None if it never does.

    Attributes:
        num_transforms: K, number of transformations.
    """

    context_field: ClassVar[str | None] = None

    flow: str
    num_transforms: Annotated[int, Field(ge=0, le=MAX_TRANSFORMS)]

    def without_context(self) -> "FlowConfig":
        """These settings for a prior, which has no context.

        Raises:
            ValueError: they explicitly ask for a context.
        """
        name = self.context_field
        if name is None:
            return self
        if name in self.model_fields_set and getattr(self, name):
            raise ValueError(f"expected {name}: false in a prior, which sees no image, got true")
        return self.model_copy(update={name: False})


class Flow(nn.Module, ABC):
    """A module that returns a transform for each context.

    It is built from (latent_shape, context_features, **settings), where context_features is the size of the context
    that the encoder can provide (0 in a prior), and the settings are the fields of the family's config except `flow`.

    Attributes:
        context_features: size of the context that the flow uses, 0 for none.
        takes_map: whether the context may be a map of the size of the latent map, (batch, context_features, H, W).
    """

    context_features: int
    takes_map: ClassVar[bool] = False

    @abstractmethod
    def forward(self, context: Tensor) -> Transform:
        """Return the transform for a context, shape (batch, context_features): from z0 to zK in a posterior, from z to
        noise in a prior.
        """


class FlowEntry(NamedTuple):
    """A family: its settings and its module."""

    config: type[FlowConfig]
    module: type[Flow]
