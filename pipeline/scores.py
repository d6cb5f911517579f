"""Scores of a model as flat names with their units."""

from dataclasses import asdict

from flowvae.evaluation import Evaluation
from flowvae.networks import plain_weights
from flowvae.vae import VAE


def flat_metrics(evaluation: Evaluation, vae: VAE) -> dict[str, float | int]:
    """What `dvc metrics show` prints, and the rows of a sweep hold."""
    flat: dict[str, float | int] = {}
    for name, value in asdict(evaluation).items():
        if isinstance(value, dict):
            flat |= {f"{name}_nats": round(value["value"], 4), f"{name}_stderr": round(value["stderr"], 4)}
    parameters = sum(weight.numel() for weight in plain_weights(vae).parameters())
    return flat | {"active_units": evaluation.active_units, "parameters": parameters}
