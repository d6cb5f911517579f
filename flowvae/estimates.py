"""Means over test images with standard errors: of one model's scores, and of the differences between two models."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from flowvae.errors import InputError
from flowvae.files import write_atomically


@dataclass(frozen=True)
class Estimate:
    """A mean over test images and its standard error."""

    value: float
    stderr: float


@dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores of single test images, in nats. Those of two models with the same evaluation seed are paired.

    Args:
        negative_elbo, reconstruction, kl: -ELBO, -log p(x|zK) and KL of all images, shape (N,).
        subset: positions of the images whose NLL was measured, shape (n,).
        nll, subset_negative_elbo: -log p(x) and -ELBO of the subset, from the same draws, shape (n,).
        effective_samples: effective number of the draws for NLL, from 1 to their number, shape (n,).
    """

    negative_elbo: np.ndarray
    reconstruction: np.ndarray
    kl: np.ndarray
    subset: np.ndarray
    nll: np.ndarray
    subset_negative_elbo: np.ndarray
    effective_samples: np.ndarray

    def save(self, path: Path) -> None:
        """Write a safetensors file, as a whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        write_atomically(path, save_arrays({field.name: getattr(self, field.name) for field in fields(self)}))

    @classmethod
    def load(cls, path: Path) -> "ImageScores":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            return cls(**load_arrays(path.read_bytes()))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); run dvc repro to create it") from error
        except (SafetensorError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error}); run dvc repro to fix it") from error


def mean_estimate(values: np.ndarray) -> Estimate:
    """Mean and standard error of independent values, shape (N,)."""
    values = values.astype(np.float64)
    return Estimate(float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5))


def difference_estimate(cheap: np.ndarray, subset: np.ndarray, exact: np.ndarray) -> Estimate:
    """Estimate the mean of an expensive quantity from a random subset and from a cheap approximation of it.

        mean(cheap over all N) - mean(cheap - exact over the n of the subset)

    The difference estimator of survey sampling (Cochran, Sampling Techniques, 1977, section 7.4). It is unbiased. The
    difference cheap - exact varies much less between images than cheap or exact, so the estimate is about as precise
    as one that measures all N. With n = N it is the plain mean.

    Args:
        cheap: the approximation, shape (N,).
        subset: indices of a simple random sample, shape (n,).
        exact: the expensive quantity on the subset, shape (n,).
    """
    cheap, exact = cheap.astype(np.float64), exact.astype(np.float64)
    gap = cheap[subset] - exact
    variance = exact.var(ddof=1) / len(cheap) + gap.var(ddof=1) * (1 / len(gap) - 1 / len(cheap))
    return Estimate(float(cheap.mean() - gap.mean()), float(variance**0.5))


def nll_estimate(scores: ImageScores) -> Estimate:
    """The mean NLL of all images, from -ELBO of all and from the gap on the subset."""
    return difference_estimate(approximate_nll(scores), scores.subset, scores.nll)


def approximate_nll(scores: ImageScores) -> np.ndarray:
    """-ELBO of all images, for those of the subset from the draws of NLL, shape (N,)."""
    cheap = scores.negative_elbo.copy()
    cheap[scores.subset] = scores.subset_negative_elbo
    return cheap


def paired_gains(references: Sequence[ImageScores], others: Sequence[ImageScores]) -> tuple[Estimate, Estimate]:
    """How much lower -ELBO and NLL are than those of a reference, in nats, with the errors of paired differences.

    All models are scored on the same images with the same noise. What they share, above all how hard each image is,
    cancels in the differences image by image, so their standard errors are several times smaller than those of the
    scores. The gain in NLL is how much better the model is; what the gain in -ELBO exceeds it by is a tighter bound.

    Args:
        references, others: scores of two variants, one for each training seed, in the same order. The differences of
            an image are averaged over the seeds.

    Returns:
        Gains in -ELBO and in NLL.
    """
    bound = mean_over_seeds([one.negative_elbo - other.negative_elbo for one, other in zip(references, others)])
    cheap = mean_over_seeds([approximate_nll(one) - approximate_nll(other) for one, other in zip(references, others)])
    exact = mean_over_seeds([one.nll - other.nll for one, other in zip(references, others)])
    return mean_estimate(bound), difference_estimate(cheap, references[0].subset, exact)


def mean_over_seeds(differences: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of arrays of the same shape, in float64."""
    return np.mean([difference.astype(np.float64) for difference in differences], axis=0)
