"""The linear probe: which images are labelled, and how accurate it is on latents that are known."""

import numpy as np
import pytest
import torch
from examples import random_bits, tiny_vae

from flowvae.data.images import ImageSet
from pipeline.probe import draw_labelled, mean_accuracy, probe


def test_draws_have_as_many_images_of_each_class_and_smaller_ones_are_their_beginnings():
    labels = np.array([3, 1, 1, 3, 3, 1, 1, 3, 7, 7, 7, 7])
    labelled = draw_labelled(labels, labels, [4, 2, 5], 3, seed=0)
    assert labelled.numbers == [2, 4]  # no class has 5
    assert labelled.classes.tolist() == [1, 3, 7] and len(labelled.draws) == 3
    for rows in labelled.draws:
        assert (labels[rows] == labelled.classes[:, None]).all()
        assert all(len(set(row)) == 4 for row in rows.tolist())
    again, other = (draw_labelled(labels, labels, [2], 2, seed) for seed in (0, 1))
    assert np.array_equal(again.draws[0], labelled.draws[0][:, :2])
    assert not np.array_equal(other.draws, again.draws)
    assert not np.array_equal(*again.draws)


@pytest.mark.parametrize(
    ("train", "test", "numbers"),
    [
        (np.arange(9), np.arange(4), [2]),  # without labels, each image is a class of its own
        (np.zeros(9), np.zeros(4), [2]),  # one class
        (np.array([0, 0, 1, 1]), np.array([0, 2]), [2]),  # test images have others
        (np.array([0, 0, 1, 1]), np.array([0, 1]), []),  # it is off
        (np.array([0, 0, 0, 1]), np.array([0, 1]), [2]),  # a class is too small
    ],
)
def test_it_is_left_out(train, test, numbers):
    assert draw_labelled(train, test, numbers, 3, seed=0) is None


def patterns(count, seed):
    """Images of two classes, left and right half, with some noise."""
    labels = np.random.default_rng(seed).integers(0, 2, count)
    images = random_bits(count, seed).pixels.clone()
    for image, label in zip(images, labels, strict=True):
        image[0, :, 2 * label : 2 * label + 2] = 1
        image[0, :, 2 - 2 * label : 4 - 2 * label] = 0
    return ImageSet(images, "bits"), labels


def test_classes_that_latents_tell_apart_are_found():
    (train, labels), (test, test_labels) = patterns(200, 0), patterns(100, 1)
    vae = tiny_vae("planar").eval()
    found = probe(vae, train, test, draw_labelled(labels, test_labels, [5, 50], 2, 0), 1.0, 0)
    assert list(found) == [5, 50] and found[50].value > 0.95
    mixed = probe(vae, train, test, draw_labelled(labels, np.roll(test_labels, 1), [50], 2, 0), 1.0, 0)
    assert mixed[50].value < 0.8
    assert probe(vae, train, test, draw_labelled(labels, test_labels, [5, 50], 2, 0), 1.0, 0) == found


def test_the_error_has_those_of_images_and_of_draws():
    correct = np.random.default_rng(0).random((3, 400)) < np.array([0.5, 0.6, 0.7])[:, None]
    found = mean_accuracy(correct)
    means = correct.mean(1)
    assert found.value == pytest.approx(correct.mean())
    of_images = correct.mean(0).std(ddof=1) / 20
    assert found.stderr == pytest.approx((of_images**2 + means.var(ddof=1) / 3) ** 0.5)
    assert mean_accuracy(correct[:1]).stderr == pytest.approx(correct[0].std(ddof=1) / 20)


def test_a_latent_that_is_not_finite_spoils_nothing():
    (train, labels), (test, test_labels) = patterns(60, 0), patterns(20, 1)
    vae = tiny_vae().eval()
    with torch.no_grad():
        list(vae.encoder.parameters())[-1][0] = torch.inf  # of the loc of the first latent
    assert not vae.encode(test.pixels).isfinite().all()
    found = probe(vae, train, test, draw_labelled(labels, test_labels, [5], 1, 0), 1.0, 0)
    assert 0 <= found[5].value <= 1
