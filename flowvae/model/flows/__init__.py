"""Families of normalizing flows.

A family is one file in this folder and one entry in FLOWS (see `family` for the contract). Its config is the schema of
a variant in `params.yaml`. `coupling`, `autoregressive_stack`, `spline`, `orthogonal`, `normalization` and `partitions`
are parts of families, most of them shared.
"""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from flowvae.model.flows.autoregressive import AffineAutoregressiveConfig, AffineAutoregressiveFlow
from flowvae.model.flows.conv_real_nvp import ConvRealNVP, ConvRealNVPConfig
from flowvae.model.flows.family import Flow, FlowConfig, FlowEntry
from flowvae.model.flows.householder import HouseholderConfig, HouseholderFlow
from flowvae.model.flows.none import NoFlow, NoFlowConfig
from flowvae.model.flows.normalization import awaits_first_batch
from flowvae.model.flows.planar import PlanarConfig, PlanarFlow
from flowvae.model.flows.radial import RadialConfig, RadialFlow
from flowvae.model.flows.real_nvp import RealNVP, RealNVPConfig
from flowvae.model.flows.spline_autoregressive import SplineAutoregressiveConfig, SplineAutoregressiveFlow
from flowvae.model.flows.spline_coupling import SplineCoupling, SplineCouplingConfig
from flowvae.model.flows.sylvester import SylvesterConfig, SylvesterFlow

FLOWS = {
    "none": FlowEntry(NoFlowConfig, NoFlow),
    "planar": FlowEntry(PlanarConfig, PlanarFlow),
    "radial": FlowEntry(RadialConfig, RadialFlow),
    "householder": FlowEntry(HouseholderConfig, HouseholderFlow),
    "sylvester": FlowEntry(SylvesterConfig, SylvesterFlow),
    "real_nvp": FlowEntry(RealNVPConfig, RealNVP),
    "conv_real_nvp": FlowEntry(ConvRealNVPConfig, ConvRealNVP),
    "autoregressive": FlowEntry(AffineAutoregressiveConfig, AffineAutoregressiveFlow),
    "spline_coupling": FlowEntry(SplineCouplingConfig, SplineCoupling),
    "spline_autoregressive": FlowEntry(SplineAutoregressiveConfig, SplineAutoregressiveFlow),
}

if TYPE_CHECKING:  # a type checker cannot evaluate the union of the table's entries
    AnyFlowConfig = FlowConfig
else:
    AnyFlowConfig = Annotated[reduce(or_, (entry.config for entry in FLOWS.values())), Field(discriminator="flow")]


def build_flow(config: FlowConfig, latent_shape: tuple[int, ...], context_features: int) -> Flow:
    """Build the flow that `config` describes.

    Args:
        config: settings of one family.
        latent_shape: (D,) of a vector, or (channels, height, width) of a map; a transform's z is flat in either case.
        context_features: size of the context that the encoder can provide.

    Raises:
        ValueError: the settings do not fit the latent shape.
    """
    settings = config.model_dump(exclude={"flow"})
    return FLOWS[config.flow].module(latent_shape, context_features, **settings)


__all__ = ["FLOWS", "AnyFlowConfig", "Flow", "FlowConfig", "FlowEntry", "awaits_first_batch", "build_flow"]
