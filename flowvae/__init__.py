"""Variational autoencoders with normalizing-flow posteriors."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowvae.vae import VAE, build_vae
    from flowvae.weights import load, save

HOME = {"VAE": "flowvae.vae", "build_vae": "flowvae.vae", "load": "flowvae.weights", "save": "flowvae.weights"}

try:
    __version__ = version("flowvae")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["VAE", "__version__", "build_vae", "load", "save"]


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: who needs a config or an error alone does not wait for torch."""
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOME[name]), name)
