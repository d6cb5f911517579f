"""Building a VAE from its config, and loading one that `VAE.save` wrote."""

from pathlib import Path

import torch
from torch import nn

from flowvae.config import has_levels
from flowvae.errors import InputError
from flowvae.model.hierarchy import HierarchicalVAE
from flowvae.model.settings import VAEConfig
from flowvae.model.vae import VAE
from flowvae.model.weights import CONFIG, WEIGHTS, read_model

PARTS = ("encoder", "decoder", "posterior", "prior")  # which may be modules of the user's own


def load(folder: Path | str, device: torch.device | str = "cpu", **modules: nn.Module) -> VAE:
    """Load a VAE that `VAE.save` wrote.

    Args:
        folder: the folder passed to `save`.
        device: device of the weights.
        modules: those of your own that the model was built with, by the names of VAE's arguments, with any weights.

    Returns:
        The VAE, each weight in the precision in which it was saved, in evaluation mode.

    Raises:
        InputError: a file is missing or damaged, the two do not fit each other, or a module is missing.
    """
    folder = Path(folder)
    config, weights = read_model(folder)
    own = {name for name in PARTS if getattr(config, name) is None}
    if own != modules.keys():
        expected, got = (", ".join(sorted(names)) or "no module" for names in (own, modules))
        raise InputError(
            f"{folder / CONFIG}: expected the modules that the model was built with as arguments of load ({expected}), "
            f"got {got}"
        )
    try:
        vae = build_vae(config, seed=0, **modules)
    except ValueError as error:
        raise InputError(
            f"{folder / CONFIG}: no model can be built from it ({error}); train the variant again"
        ) from error
    vae.to(next((value.dtype for value in weights.values() if value.is_floating_point()), torch.float32))
    for name, value in vae.state_dict(keep_vars=True).items():
        value.data = value.data.to(weights[name].dtype if name in weights else value.dtype)
    try:
        vae.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{folder / WEIGHTS}: does not fit {CONFIG} or this version of flowvae; train the variant again"
        ) from error
    return vae.to(device).eval()


def build_vae(config: VAEConfig, *, seed: int, **modules: nn.Module) -> VAE:
    """Build a VAE with initial weights, which depend only on the arguments.

    Args:
        config: of all parts.
        seed: of the initial weights.
        modules: the parts that are None in the config, by name.

    Raises:
        ValueError: the settings do not fit each other.
    """
    kind = HierarchicalVAE if has_levels(config.latent_shape) else VAE
    return kind(**{name: getattr(config, name) for name in VAEConfig.model_fields} | modules, seed=seed)
