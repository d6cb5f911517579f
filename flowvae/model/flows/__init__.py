"""Families of normalizing flows.

A family is one file in this folder and one entry in FLOWS (see `family` for the contract). Its config is the schema of
a posterior or prior in `params.yaml`. `coupling`, `autoregressive_stack`, `spline`, `orthogonal`, `normalization` and
`partitions` are parts of families, most of them shared.
"""

from typing import Annotated

from pydantic import SerializeAsAny

from flowvae.config import entry_by
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

FLOWS: dict[str, FlowEntry] = {
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

AnyFlowConfig = Annotated[SerializeAsAny[FlowConfig], entry_by("flow", lambda name: FLOWS[name].config, FLOWS)]


def register_flow(config: type[FlowConfig], module: type[Flow]) -> None:
    """Add a family at run time, so that its settings are accepted wherever those of the families here are.

    A process that loads a model with this family registers it first.

    Args:
        config: settings, in which `flow` is a literal with a default: the name of the family.
        module: built from (latent_shape, context_features, **settings).

    Raises:
        ValueError: the settings give the family no name, or there is another family of this name.
    """
    name = config.model_fields["flow"].default
    if not isinstance(name, str):
        raise ValueError(f'expected a name in {config.__name__}, such as flow: Literal["mine"] = "mine"')
    if name in FLOWS and FLOWS[name] != (config, module):
        raise ValueError(f"expected a new name, {name!r} is taken by {FLOWS[name].module.__name__}")
    FLOWS[name] = FlowEntry(config, module)


def build_flow(config: FlowConfig, latent_shape: tuple[int, ...], context_features: int) -> Flow:
    """Build the flow that `config` describes.

    Args:
        config: settings of one family.
        latent_shape: (D,) of a vector, or (channels, height, width) of a map; a transform's z is flat in either case.
        context_features: size of the context that the encoder can provide.

    Raises:
        ValueError: the settings do not fit the latent shape, or are those of no family.
    """
    if config.flow not in FLOWS or not isinstance(config, FLOWS[config.flow].config):
        raise ValueError(
            f"expected settings of a family in FLOWS, got {type(config).__name__}; register it (flowvae.register_flow)"
        )
    settings = config.model_dump(exclude={"flow"})
    return FLOWS[config.flow].module(latent_shape, context_features, **settings)


__all__ = [
    "FLOWS",
    "AffineAutoregressiveConfig",
    "AnyFlowConfig",
    "ConvRealNVPConfig",
    "Flow",
    "FlowConfig",
    "FlowEntry",
    "HouseholderConfig",
    "NoFlowConfig",
    "PlanarConfig",
    "RadialConfig",
    "RealNVPConfig",
    "SplineAutoregressiveConfig",
    "SplineCouplingConfig",
    "SylvesterConfig",
    "awaits_first_batch",
    "build_flow",
    "register_flow",
]
