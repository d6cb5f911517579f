"""What is wrong with params.yaml beyond the type of each key."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flowvae.data.arrays import is_eight_bit
from flowvae.datasets.config import DataConfig
from flowvae.datasets.registry import data_contradictions, image_shape
from flowvae.errors import InputError
from flowvae.model.likelihoods import LIKELIHOODS
from flowvae.model.loading import build_vae
from flowvae.model.settings import ModelConfig
from pipeline.params.schema import Params, VariantConfig, vae_config
from pipeline.params.trees import leaf_paths


def contradictions(params: Params) -> Iterator[str]:
    """Keys that are valid alone and wrong together, each as one line."""
    named = {
        "interpolation.left": params.interpolation.left,
        "interpolation.right": params.interpolation.right,
        "report.reference": params.report.reference,
    }
    for key, variant in named.items():
        if variant not in params.variants:
            yield f"{key}: expected one of the variants ({', '.join(params.variants)}), got {variant!r}"
    yield from data_contradictions(params.data)
    if params.training.objective == "importance_weighted" and params.training.free_nats:
        yield f"training.free_nats: expected 0 with the importance_weighted objective, got {params.training.free_nats}"
    if problem := likelihood_mismatch(params.data, params.model):
        yield problem


def likelihood_mismatch(data: DataConfig, model: ModelConfig) -> str | None:
    """The problem of a likelihood over bits for 8-bit values, or the reverse; None if they match."""
    eight_bit = is_eight_bit(data.binarization)
    matching = [name for name, entry in LIKELIHOODS.items() if entry.likelihood.of_bits != eight_bit]
    if model.likelihood.name in matching:
        return None
    return (
        f"model.likelihood.name: expected one of {', '.join(matching)} where data.binarization is "
        f"{data.binarization}, got {model.likelihood.name}"
    )


def check_models(params: Params, path: Path) -> None:
    """Build every variant once; `fetch` does so for all stages.

    Raises:
        InputError: one line per reason why variants do not fit the model.
    """
    unbuildable: dict[str, list[str]] = {}
    for name, variant in params.variants.items():
        if problem := model_mismatch(params.data, params.model, variant):
            unbuildable.setdefault(problem, []).append(f"variants.{name}")
    if unbuildable:
        lines = (f"{path}: model with {', '.join(keys)}: {message}" for message, keys in unbuildable.items())
        raise InputError("\n".join(lines))


def model_mismatch(data: DataConfig, model: ModelConfig, variant: VariantConfig) -> str | None:
    """Why images, networks and flows do not fit each other, determined by building the model; None if they do."""
    try:
        build_vae(vae_config(model, variant, image_shape(data)), seed=0)
    except ValueError as error:
        return str(error)
    return None


def unread_keys(params: Any, stages: Mapping[str, Any]) -> list[str]:
    """Keys of params.yaml that no stage of dvc.yaml lists, as dotted paths.

    Args:
        params: contents of params.yaml.
        stages: `stages` of dvc.yaml.
    """
    listed = [
        ["*" if part.startswith("$") else part for part in entry.replace("${item.", "$").replace("}", "").split(".")]
        for stage in stages.values()
        for entry in stage.get("params", ())
    ]
    return [".".join(path) for path in leaf_paths(params) if not any(covers(prefix, path) for prefix in listed)]


def covers(prefix: list[str], path: tuple[str, ...]) -> bool:
    """Whether a list of keys, in which * matches any key, is the beginning of a path."""
    return len(prefix) <= len(path) and all(part in ("*", key) for part, key in zip(prefix, path))
