"""Families of normalizing flows.

A family is one file here and one entry in FLOWS. Its module takes the encoder's context and
returns a `Transform`; its config is the schema of a variant in `params.yaml`. `coupling` and
`normalization` are parts that families share.
"""

from functools import reduce
from operator import or_
from typing import Annotated, NamedTuple

from pydantic import Field
from torch import nn

from flowvae.config import FlowConfig
from flowvae.flows.conv_real_nvp import ConvRealNVP, ConvRealNVPConfig
from flowvae.flows.none import NoFlow, NoFlowConfig
from flowvae.flows.planar import PlanarConfig, PlanarFlow
from flowvae.flows.real_nvp import RealNVP, RealNVPConfig


class Family(NamedTuple):
    """A flow's settings and the module built from them.

    The module's constructor takes (latent_shape, context_features, **settings) and has the
    attribute `context_features`: how much context it wants, 0 for none. Its forward takes the
    context, shape (batch, context_features), and returns a `Transform`.
    """

    config: type[FlowConfig]
    module: type[nn.Module]


FLOWS = {
    "none": Family(NoFlowConfig, NoFlow),
    "planar": Family(PlanarConfig, PlanarFlow),
    "real_nvp": Family(RealNVPConfig, RealNVP),
    "conv_real_nvp": Family(ConvRealNVPConfig, ConvRealNVP),
}

AnyFlowConfig = Annotated[reduce(or_, (family.config for family in FLOWS.values())), Field(discriminator="flow")]


def build_flow(config: FlowConfig, latent_shape: tuple[int, ...], context_features: int) -> nn.Module:
    """The flow module that `config` describes.

    Args:
        config: settings of one family.
        latent_shape: (D,) of a vector, or (channels, height, width) of a map; a transform's z is flat either way.
        context_features: how much context the encoder can give.

    Raises:
        ValueError: the settings do not fit the latent shape.
    """
    settings = config.model_dump(exclude={"flow"})
    return FLOWS[config.flow].module(latent_shape, context_features, **settings)


__all__ = ["FLOWS", "AnyFlowConfig", "Family", "build_flow"]
