"""Weights as a safetensors file, next to a JSON file with the config and the checksum of the weights."""

import hashlib
import json
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from flowvae.config import Config
from flowvae.errors import InputError
from flowvae.files import write_atomically
from flowvae.model.vae import VAE, VAEConfig, build_vae

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class SavedModel(Config):
    """Contents of config.json."""

    vae: VAEConfig
    weights_sha256: str


def save(folder: Path | str, vae: VAE, config: VAEConfig) -> None:
    """Write `model.safetensors` and `config.json` into a folder, which is created if necessary.

    Each file is either complete or absent. The config is written last and holds the checksum of the weights.

    Args:
        folder: where to write.
        vae: the model.
        config: what the model was built from.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    weights = save_tensors({name: value.contiguous() for name, value in vae.state_dict().items()})
    saved = SavedModel(vae=config, weights_sha256=hashlib.sha256(weights).hexdigest())
    write_atomically(folder / WEIGHTS, weights)
    write_atomically(folder / CONFIG, (saved.model_dump_json(indent=2) + "\n").encode())


def load(folder: Path | str, device: torch.device | str = "cpu") -> VAE:
    """Load a VAE that `save` wrote.

    Args:
        folder: the folder passed to `save`.
        device: device of the weights.

    Returns:
        The VAE, in evaluation mode.

    Raises:
        InputError: a file is missing or damaged, or the two do not fit each other.
    """
    folder = Path(folder)
    saved = _read_config(folder / CONFIG)
    weights = _read(folder / WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != saved.weights_sha256:
        raise InputError(
            f"{folder / WEIGHTS}: damaged, its checksum differs from the one in {CONFIG}; train the variant again"
        )
    try:
        vae = build_vae(saved.vae, seed=0)
    except ValueError as error:
        raise InputError(
            f"{folder / CONFIG}: no model can be built from it ({error}); train the variant again"
        ) from error
    try:
        vae.load_state_dict(load_tensors(weights))
    except (RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{folder / WEIGHTS}: does not fit {CONFIG} or this version of flowvae; train the variant again"
        ) from error
    return vae.to(device).eval()


def _read_config(path: Path) -> SavedModel:
    try:
        return SavedModel.model_validate(json.loads(_read(path)))
    except (ValueError, ValidationError) as error:
        raise InputError(f"{path}: not a config of this version of flowvae; train the variant again") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); train the variant first") from error
