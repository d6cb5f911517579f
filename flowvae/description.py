"""What a model folder holds, in words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowvae.config import Config, has_levels
from flowvae.errors import InputError
from flowvae.model.loading import load
from flowvae.model.networks import plain_weights
from flowvae.model.vae import VAE

TRAINING = "training.json"  # which the stage `train` writes beside the weights
METRICS = "metrics.json"  # which `flowvae export` writes beside them
OF_THE_RUN = ("variant", "seed", "epochs")


def describe(folder: Path) -> dict[str, str]:
    """Names and values of what there is to say of a model.

    Raises:
        InputError: a file is missing or damaged.
    """
    vae, trained, metrics = plain_weights(load(folder)), read_object(folder / TRAINING), read_object(folder / METRICS)
    metrics.pop("parameters", None)  # those of the model are there
    return describe_model(vae) | describe_training(trained) | texts(metrics)


def describe_model(vae: VAE) -> dict[str, str]:
    """The parts of a model."""
    config = vae.config
    levels = config.levels if has_levels(config.latent_shape) else (config.level,)
    maps = len(levels[0]) > 1
    return {
        "model": type(vae).__name__,
        "images": f"{size_text(config.image_shape)}, {'bits' if vae.of_bits else '8-bit values'}",
        "latents": f"{vae.latent_dim} ({', '.join(map(size_text, levels))})" if maps else str(vae.latent_dim),
        "posterior": settings_text(config.posterior, "flow"),
        "prior": settings_text(config.prior, "flow"),
        "likelihood": settings_text(config.likelihood, "name"),
        "encoder": settings_text(config.encoder, "name"),
        "decoder": settings_text(config.decoder, "name"),
        "parameters": f"{count_parameters(vae):,}",
    }


def count_parameters(vae: VAE) -> int:
    """Numbers that training adjusts."""
    return sum(weight.numel() for weight in vae.parameters())


def size_text(shape: tuple[int, ...]) -> str:
    """1 x 28 x 28."""
    return " x ".join(map(str, shape))


def settings_text(config: Config | None, tag: str) -> str:
    """The name of a part and its settings."""
    if config is None:
        return "a module of your own"
    settings = config.model_dump(mode="json")
    name = settings.pop(tag)
    if settings.get("num_transforms") == 0:  # there is no flow
        return str(name)
    return ", ".join([str(name), *(f"{key} {value_text(value)}" for key, value in settings.items())])


def value_text(value: Any) -> str:
    """A setting; those of a group in parentheses."""
    if isinstance(value, Mapping):
        return f"({', '.join(f'{key} {value_text(each)}' for key, each in value.items())})"
    return json.dumps(value) if isinstance(value, bool | list) or value is None else str(value)


def describe_training(trained: Mapping[str, Any]) -> dict[str, str]:
    """How a model was trained, and its metrics."""
    metrics = trained.get("metrics")
    return texts(
        {name: trained[name] for name in OF_THE_RUN if name in trained}
        | (dict(metrics) if isinstance(metrics, Mapping) else {})
    )


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Names and values as text."""
    return {str(name): str(value) for name, value in values.items()}


def read_object(path: Path) -> dict[str, Any]:
    """The contents of a JSON file; none if there is no such file.

    Raises:
        InputError: it is damaged, or cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged, not JSON; remove it, or create it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: damaged, expected a JSON object; remove it, or create it again")
    return content
