"""Means over images: unbiased, with errors that are right, and differences of two models image by image."""

import math

import numpy as np
import pytest
from tolerances import assert_close

from flowvae.errors import InputError
from flowvae.estimates import (
    ImageScores,
    difference_estimate,
    mean_estimate,
    nll_estimate,
    paired_gains,
)


def normal(seed, size):
    return np.random.default_rng(seed).standard_normal(size)


def image_scores(seed, gain=0.0, tighter=0.0, noise=0.0, num_images=2000, num_nll_images=400):
    """Scores of a model that is better by `gain` nats, and whose bound is tighter by `tighter` nats.

    The difficulty of an image, with a standard deviation of 30 nats, is the same for all models.
    """
    subset = np.sort(np.random.default_rng(1).permutation(num_images)[:num_nll_images])
    nll = 90 + 30 * normal(0, num_images) - gain + noise * normal(10 + seed, num_images)
    bound = nll + 5 - tighter
    return ImageScores(
        negative_elbo=bound + 0.5 * normal(20 + seed, num_images),
        reconstruction=bound - 20,
        kl=np.full(num_images, 20.0),
        subset=subset,
        nll=nll[subset],
        subset_negative_elbo=(bound + 0.1 * normal(30 + seed, num_images))[subset],
        effective_samples=np.full(num_nll_images, 50.0),
    )


def test_mean_estimate():
    estimate = mean_estimate(np.array([1.0, 2.0, 3.0, 6.0]))
    assert estimate.value == 3.0
    assert_close(estimate.stderr, math.sqrt(14 / 3 / 4))


def test_difference_estimate_on_all_images_is_the_plain_mean():
    cheap, exact = normal(0, 50), normal(1, 50)
    order = np.random.default_rng(2).permutation(50)
    estimate, expected = difference_estimate(cheap, order, exact[order]), mean_estimate(exact)
    assert_close((estimate.value, estimate.stderr), (expected.value, expected.stderr))


def test_difference_estimate_is_unbiased_and_calibrated():
    """1,500 test sets of N = 120 images with mean 1, of which n = 30 are measured.

    All three comparisons are within 5 standard errors. The relative one of a standard deviation from n numbers is
    1 / sqrt(2 n); the mean of 1,500 variances, each from 30 numbers, has sqrt(2 / 29 / 1500).
    """
    estimates, stderrs = [], []
    for seed in range(1500):
        exact = 1 + 2 * normal(2 * seed, 120)
        cheap = exact + 3 + 0.8 * normal(2 * seed + 1, 120)
        subset = np.random.default_rng(10_000 + seed).permutation(120)[:30]
        estimate = difference_estimate(cheap, subset, exact[subset])
        estimates.append(estimate.value)
        stderrs.append(estimate.stderr)
    estimates, stderrs = np.array(estimates), np.array(stderrs)
    assert abs(estimates.mean() - 1) < 5 * estimates.std(ddof=1) / 1500**0.5
    expected = math.sqrt(4 / 120 + 0.64 * (1 / 30 - 1 / 120))
    assert estimates.std(ddof=1) == pytest.approx(expected, rel=5 / math.sqrt(2 * 1500))
    assert np.square(stderrs).mean() == pytest.approx(expected**2, rel=5 * math.sqrt(2 / 29 / 1500))


def test_gains_are_paired():
    """2.0 nats of a better model and 0.7 of a tighter bound, found with errors far below those of the scores."""
    reference, other = image_scores(0, noise=1.0), image_scores(1, gain=2.0, tighter=0.7, noise=1.0)
    bound, nll = paired_gains([reference], [other])
    assert abs(bound.value - 2.7) < 5 * bound.stderr and abs(nll.value - 2.0) < 5 * nll.stderr
    assert bound.stderr == pytest.approx(math.sqrt(2 * (1 + 0.25) / 2000), rel=0.1)
    assert nll_estimate(reference).stderr > 10 * nll.stderr
    assert_close(bound.value, mean_estimate(reference.negative_elbo).value - mean_estimate(other.negative_elbo).value)
    assert_close(nll.value, nll_estimate(reference).value - nll_estimate(other).value, size=200.0)


def test_gains_of_several_seeds_average_the_differences_of_an_image():
    references = [image_scores(seed, noise=1.0) for seed in range(4)]
    others = [image_scores(5 + seed, gain=2.0, noise=1.0) for seed in range(4)]
    bound, nll = paired_gains(references, others)
    singles = [paired_gains([one], [other]) for one, other in zip(references, others)]
    assert_close(bound.value, np.mean([single.value for single, _ in singles]).item())
    assert_close(nll.value, np.mean([single.value for _, single in singles]).item())
    assert bound.stderr == pytest.approx(singles[0][0].stderr / 2, rel=0.1)


def test_a_model_gains_nothing_over_itself():
    scores = image_scores(0)
    for estimate in paired_gains([scores], [scores]):
        assert (estimate.value, estimate.stderr) == (0.0, 0.0)


def test_scores_are_read_as_they_were_written(tmp_path):
    scores, path = image_scores(0), tmp_path / "scores" / "vae-0.safetensors"
    scores.save(path)
    content = path.read_bytes()
    read = ImageScores.load(path)
    assert all(np.array_equal(value, getattr(read, name)) for name, value in vars(scores).items())
    scores.save(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [None, b"", b"some text", "half"])
def test_scores_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "vae-0.safetensors"
    if content is not None:
        image_scores(0).save(path)
        path.write_bytes(path.read_bytes()[:1000] if content == "half" else content)
    with pytest.raises(InputError, match=r"vae-0\.safetensors: (cannot be read|damaged).*run dvc repro"):
        ImageScores.load(path)
