"""Scores of a model as flat names with their units."""

from dataclasses import asdict

from flowvae.evaluation import Evaluation, bits_per_dim
from flowvae.networks import plain_weights
from flowvae.vae import VAE

IN_BITS = ("negative_elbo", "nll")  # the bounds, which are compared between sizes of images


def flat_metrics(evaluation: Evaluation, vae: VAE, image_shape: tuple[int, int, int]) -> dict[str, float | int]:
    """What `dvc metrics show` prints, and the rows of a sweep hold."""
    flat: dict[str, float | int] = {}
    for name, value in asdict(evaluation).items():
        if isinstance(value, dict):
            flat |= {f"{name}_nats": round(value["value"], 4), f"{name}_stderr": round(value["stderr"], 4)}
    for name in IN_BITS:
        bits = bits_per_dim(getattr(evaluation, name), image_shape)
        flat |= {
            f"{name}_bits_per_dim": round(bits.value, 6),
            f"{name}_bits_per_dim_stderr": round(bits.stderr, 6),
        }
    parameters = sum(weight.numel() for weight in plain_weights(vae).parameters())
    return flat | {"active_units": evaluation.active_units, "parameters": parameters}
