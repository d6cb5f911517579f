"""Variational autoencoders with normalizing-flow posteriors."""

from importlib.metadata import PackageNotFoundError, version

from flowvae.vae import VAE, build_vae
from flowvae.weights import load, save

try:
    __version__ = version("flowvae")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["VAE", "__version__", "build_vae", "load", "save"]
