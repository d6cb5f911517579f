"""Variational autoencoders with normalizing flows in the posterior and in the prior.

>>> import torch, flowvae
>>> images = torch.rand(200, 1, 8, 8) > 0.5
>>> vae = flowvae.VAE(
...     image_shape=(1, 8, 8),
...     latent_shape=(4,),
...     posterior=flowvae.Planar(num_transforms=3),
...     prior=flowvae.RealNVP(num_transforms=2),
... )
>>> records = flowvae.fit(vae, images[:150], images[150:], epochs=1)
>>> vae.log_prob(images[:5], num_samples=20).shape  # nats per image
torch.Size([5])
>>> vae.sample(3).shape
torch.Size([3, 1, 8, 8])
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowvae.adapters import TorchTransform, ZukoFlow
    from flowvae.model.flows import AffineAutoregressiveConfig as Autoregressive
    from flowvae.model.flows import ConvRealNVPConfig as ConvRealNVP
    from flowvae.model.flows import Flow, FlowConfig, register_flow
    from flowvae.model.flows import HouseholderConfig as Householder
    from flowvae.model.flows import NoFlowConfig as NoFlow
    from flowvae.model.flows import PlanarConfig as Planar
    from flowvae.model.flows import RadialConfig as Radial
    from flowvae.model.flows import RealNVPConfig as RealNVP
    from flowvae.model.flows import SplineAutoregressiveConfig as SplineAutoregressive
    from flowvae.model.flows import SplineCouplingConfig as SplineCoupling
    from flowvae.model.flows import SylvesterConfig as Sylvester
    from flowvae.model.hierarchy import HierarchicalVAE
    from flowvae.model.likelihoods.bernoulli import BernoulliConfig as Bernoulli
    from flowvae.model.likelihoods.logistic import DiscretizedLogisticConfig as DiscretizedLogistic
    from flowvae.model.likelihoods.logistic_mixture import LogisticMixtureConfig as LogisticMixture
    from flowvae.model.loading import build_vae, load
    from flowvae.model.networks.conv import ConvDecoderConfig as ConvDecoder
    from flowvae.model.networks.conv import ConvEncoderConfig as ConvEncoder
    from flowvae.model.networks.ladder import LadderDecoderConfig as LadderDecoder
    from flowvae.model.networks.ladder import LadderEncoderConfig as LadderEncoder
    from flowvae.model.networks.residual import ResidualDecoderConfig as ResidualDecoder
    from flowvae.model.networks.residual import ResidualEncoderConfig as ResidualEncoder
    from flowvae.model.settings import VAEConfig
    from flowvae.model.transforms import Transform
    from flowvae.model.vae import VAE
    from flowvae.training.config import TrainingConfig
    from flowvae.training.fitting import fit_images as fit

# Module and name of each public name. Settings of the parts of a model have the names of the parts.
PUBLIC = {
    "VAE": ("model.vae", "VAE"),
    "HierarchicalVAE": ("model.hierarchy", "HierarchicalVAE"),
    "VAEConfig": ("model.settings", "VAEConfig"),
    "build_vae": ("model.loading", "build_vae"),
    "load": ("model.loading", "load"),
    "fit": ("training.fitting", "fit_images"),
    "TrainingConfig": ("training.config", "TrainingConfig"),
    "NoFlow": ("model.flows", "NoFlowConfig"),
    "Planar": ("model.flows", "PlanarConfig"),
    "Radial": ("model.flows", "RadialConfig"),
    "Householder": ("model.flows", "HouseholderConfig"),
    "Sylvester": ("model.flows", "SylvesterConfig"),
    "RealNVP": ("model.flows", "RealNVPConfig"),
    "ConvRealNVP": ("model.flows", "ConvRealNVPConfig"),
    "Autoregressive": ("model.flows", "AffineAutoregressiveConfig"),
    "SplineCoupling": ("model.flows", "SplineCouplingConfig"),
    "SplineAutoregressive": ("model.flows", "SplineAutoregressiveConfig"),
    "Bernoulli": ("model.likelihoods.bernoulli", "BernoulliConfig"),
    "DiscretizedLogistic": ("model.likelihoods.logistic", "DiscretizedLogisticConfig"),
    "LogisticMixture": ("model.likelihoods.logistic_mixture", "LogisticMixtureConfig"),
    "ConvEncoder": ("model.networks.conv", "ConvEncoderConfig"),
    "ConvDecoder": ("model.networks.conv", "ConvDecoderConfig"),
    "ResidualEncoder": ("model.networks.residual", "ResidualEncoderConfig"),
    "LadderEncoder": ("model.networks.ladder", "LadderEncoderConfig"),
    "LadderDecoder": ("model.networks.ladder", "LadderDecoderConfig"),
    "ResidualDecoder": ("model.networks.residual", "ResidualDecoderConfig"),
    "Flow": ("model.flows", "Flow"),
    "FlowConfig": ("model.flows", "FlowConfig"),
    "Transform": ("model.transforms", "Transform"),
    "register_flow": ("model.flows", "register_flow"),
    "ZukoFlow": ("adapters", "ZukoFlow"),
    "TorchTransform": ("adapters", "TorchTransform"),
}

try:
    __version__ = version("flowvae")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "VAE",
    "Autoregressive",
    "Bernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "ConvRealNVP",
    "DiscretizedLogistic",
    "Flow",
    "FlowConfig",
    "HierarchicalVAE",
    "Householder",
    "LadderDecoder",
    "LadderEncoder",
    "LogisticMixture",
    "NoFlow",
    "Planar",
    "Radial",
    "RealNVP",
    "ResidualDecoder",
    "ResidualEncoder",
    "SplineAutoregressive",
    "SplineCoupling",
    "Sylvester",
    "TorchTransform",
    "TrainingConfig",
    "Transform",
    "VAEConfig",
    "ZukoFlow",
    "__version__",
    "build_vae",
    "fit",
    "load",
    "register_flow",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing only a config or an error does not import torch."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = PUBLIC[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return __all__
