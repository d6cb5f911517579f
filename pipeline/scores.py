"""Scores of a model as flat names with their units."""

from dataclasses import fields

from flowvae.config import ImageShape
from flowvae.estimates import Estimate
from flowvae.evaluation import Evaluation, bits_per_dim
from flowvae.model.networks import plain_weights
from flowvae.model.vae import VAE

IN_BITS = ("negative_elbo", "nll")  # the bounds, which are also compared per dimension


def metric_names() -> list[str]:
    """Names of the metrics, in the order of `flat_metrics`."""
    names: list[str] = []
    for field in fields(Evaluation):
        if field.type is Estimate:
            names += [f"{field.name}_nats", f"{field.name}_stderr"]
    for name in IN_BITS:
        names += [f"{name}_bits_per_dim", f"{name}_bits_per_dim_stderr"]
    return [*names, "active_units", "parameters"]


def flat_metrics(evaluation: Evaluation, vae: VAE, image_shape: ImageShape) -> dict[str, float | int]:
    """What `dvc metrics show` prints, and what the rows of a study hold.

    Returns:
        Estimates in nats per image as NAME_nats and NAME_stderr, the bounds also in bits per dimension, and counts.
    """
    flat: dict[str, float | int] = {}
    for field in fields(Evaluation):
        estimate = getattr(evaluation, field.name)
        if isinstance(estimate, Estimate):
            flat[f"{field.name}_nats"] = round(estimate.value, 4)
            flat[f"{field.name}_stderr"] = round(estimate.stderr, 4)
    for name in IN_BITS:
        bits = bits_per_dim(getattr(evaluation, name), image_shape)
        flat[f"{name}_bits_per_dim"] = round(bits.value, 6)
        flat[f"{name}_bits_per_dim_stderr"] = round(bits.stderr, 6)
    flat["active_units"] = evaluation.active_units
    flat["parameters"] = sum(weight.numel() for weight in plain_weights(vae).parameters())
    return flat
