"""The command `score`: bounds on log p(x) of images, their means, and a table."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from flowvae.commands.outputs import write_csv
from flowvae.commands.work import CHUNK, Opened
from flowvae.config import ImageShape
from flowvae.estimates import Estimate, mean_estimate
from flowvae.evaluation import (
    all_indices,
    bits_per_dim,
    effective_sample_size,
    log_importance_weights,
    nll_from,
)
from flowvae.model.vae import VAE
from flowvae.randomness import NormalDraws

FEW_DRAWS = 3  # effective ones, below which NLL rests on a single draw or two
HEADER = (
    *("image", "negative_elbo_nats", "nll_nats", "negative_elbo_bits_per_dim", "nll_bits_per_dim"),
    "effective_samples",
)


class Scores(NamedTuple):
    """Of each image, from the same draws: -ELBO and NLL in nats, and the effective number of draws, shape (N,)."""

    negative_elbo: np.ndarray
    nll: np.ndarray
    effective_samples: np.ndarray


@torch.inference_mode()
def score(vae: VAE, given: Opened, out: Path | None, num_samples: int, seed: int) -> list[str]:
    """Score images, and write the scores of each image if a file is named. Returns: the lines to print."""
    scores, shape = measure(vae, given, num_samples, seed), vae.config.image_shape
    if out:
        in_bits = (in_bits_per_dim(nats, shape) for nats in (scores.negative_elbo, scores.nll))
        columns = (scores.negative_elbo, scores.nll, *in_bits, scores.effective_samples)
        write_csv(out, HEADER, zip(given.names, *(column.tolist() for column in columns)))
    file = f"{out}: " if out else ""
    return [
        f"{file}{given.text}, {num_samples:,} draws each, seed {seed}{given.note}",
        score_line("-ELBO", scores.negative_elbo, shape),
        score_line("NLL", scores.nll, shape),
        draws_line(float(np.median(scores.effective_samples)), num_samples),
    ]


def measure(vae: VAE, given: Opened, num_samples: int, seed: int) -> Scores:
    """Score each image, at draws that depend on the seed and the position of the image alone."""
    draws, parts = NormalDraws(seed, "importance", vae.latent_dim), []
    for indices in all_indices(given.images).split(max(1, CHUNK // num_samples)):
        log_weights = log_importance_weights(vae, given.images, indices, num_samples, CHUNK, draws)
        nll, effective = nll_from(log_weights, num_samples), effective_sample_size(log_weights)
        parts.append(torch.stack((-log_weights.mean(0), nll, effective)))
    return Scores(*torch.cat(parts, dim=1).double().cpu().numpy())


def in_bits_per_dim(nats: np.ndarray, shape: ImageShape) -> np.ndarray:
    """Nats per image as bits per dimension."""
    return nats * bits_per_dim(Estimate(1, 0), shape).value


def score_line(name: str, nats: np.ndarray, shape: ImageShape) -> str:
    """The mean of a score in both units."""
    in_bits = in_bits_per_dim(nats, shape)
    return f"{name:<6} {mean_text(nats, 2)} nats per image  {mean_text(in_bits, 4)} bits per dimension"


def mean_text(values: np.ndarray, digits: int) -> str:
    """A mean ± its standard error, which a single value does not have."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    mean = mean_estimate(values)
    return f"{mean.value:.{digits}f} ± {mean.stderr:.{digits}f}"


def draws_line(median: float, num_samples: int) -> str:
    """How many draws are effective, and what to do if they are few."""
    advice = "; so few that NLL is a loose bound: raise --samples" if median < FEW_DRAWS <= num_samples else ""
    return f"effective draws: {median:.0f} of {num_samples:,} (median over images){advice}"
