"""Variational autoencoders with normalizing-flow posteriors."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowvae.model.vae import VAE, build_vae
    from flowvae.model.weights import load, save

MODULES = {
    "VAE": "flowvae.model.vae",
    "build_vae": "flowvae.model.vae",
    "load": "flowvae.model.weights",
    "save": "flowvae.model.weights",
}

try:
    __version__ = version("flowvae")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["VAE", "__version__", "build_vae", "load", "save"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing only a config or an error does not import torch."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)
