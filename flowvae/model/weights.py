"""Weights as a safetensors file, next to a JSON file with the config and the checksum of the weights."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from flowvae.config import Config
from flowvae.errors import InputError
from flowvae.files import write_atomically
from flowvae.model.flows import FLOWS
from flowvae.model.settings import VAEConfig

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class SavedModel(Config):
    """Contents of config.json."""

    vae: VAEConfig
    weights_sha256: str


def write_model(folder: Path, weights: Mapping[str, Tensor], config: VAEConfig) -> None:
    """Write `model.safetensors` and `config.json` into a folder, which is created if necessary.

    Each file is either complete or absent. The config is written last and holds the checksum of the weights.

    Raises:
        OSError: a file cannot be written.
    """
    # Copies, because weights that two modules share are refused.
    copies = {name: value.clone(memory_format=torch.contiguous_format) for name, value in weights.items()}
    content = save_tensors(copies)
    saved = SavedModel(vae=config, weights_sha256=hashlib.sha256(content).hexdigest())
    write_atomically(folder / WEIGHTS, content)
    write_atomically(folder / CONFIG, (saved.model_dump_json(indent=2) + "\n").encode())


def read_model(folder: Path) -> tuple[VAEConfig, dict[str, Tensor]]:
    """Read what `write_model` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """
    saved, content = _read_config(folder / CONFIG), _read(folder / WEIGHTS)
    if hashlib.sha256(content).hexdigest() != saved.weights_sha256:
        raise InputError(
            f"{folder / WEIGHTS}: damaged, its checksum differs from the one in {CONFIG}; train the variant again"
        )
    try:
        return saved.vae, load_tensors(content)
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS}: not a file of weights ({error}); train the variant again") from error


def _read_config(path: Path) -> SavedModel:
    try:
        return SavedModel.model_validate(content := json.loads(_read(path)))
    except ValidationError as error:
        if unknown := _unknown_flows(content):
            raise InputError(
                f"{path}: unknown families of flows: {', '.join(unknown)}; register them first "
                f"(flowvae.register_flow), or use the version of flowvae that wrote it"
            ) from error
        raise InputError(f"{path}: not a config of this version of flowvae; train the variant again") from error
    except ValueError as error:
        raise InputError(f"{path}: not a config of this version of flowvae; train the variant again") from error


def _unknown_flows(content: object) -> list[str]:
    """Names of families in the contents of config.json that are not in FLOWS."""
    vae = content.get("vae") if isinstance(content, dict) else None
    parts = [vae.get(name) for name in ("posterior", "prior")] if isinstance(vae, dict) else []
    return [str(part["flow"]) for part in parts if isinstance(part, dict) and part.get("flow") not in FLOWS]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); train the variant first") from error
