"""No flow: the plain VAE, whose posterior is its diagonal normal base."""

from typing import Literal

from torch import Tensor

from flowvae.model.flows.family import Flow, FlowConfig
from flowvae.model.transforms import ComposedTransform


class NoFlowConfig(FlowConfig):
    """No flow: the normal posterior of a plain VAE, or the prior N(0, I)."""

    flow: Literal["none"] = "none"
    num_transforms: Literal[0] = 0


class NoFlow(Flow):
    """The identity for every context."""

    context_features = 0

    def __init__(self, latent_shape: tuple[int, ...], context_features: int, *, num_transforms: int) -> None:
        super().__init__()

    def forward(self, context: Tensor) -> ComposedTransform:
        return ComposedTransform(())
