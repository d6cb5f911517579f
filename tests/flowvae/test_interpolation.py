"""Paths through latent space, and the pairs of images that they join."""

import pytest
import torch
from examples import random, tiny_vae

from flowvae.interpolation import PATHS, different_label_pairs, interpolate, linear, spherical

T = torch.linspace(0, 1, 7, dtype=torch.float64)
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@every_path
def test_ends_and_shape(path):
    start, end = random(0, 4, 5), random(1, 4, 5)
    points = path(start, end, T)
    assert points.shape == (7, 4, 5)
    torch.testing.assert_close(points[0], start)
    torch.testing.assert_close(points[-1], end)


@every_path
def test_reversed_path(path):
    start, end = random(0, 4, 5), random(1, 4, 5)
    torch.testing.assert_close(path(end, start, T), path(start, end, T).flip(0))


def test_linear_is_straight_and_even():
    start, end = random(0, 4, 5), random(1, 4, 5)
    steps = linear(start, end, T).diff(dim=0)
    torch.testing.assert_close(steps, ((end - start) / 6).expand(6, 4, 5))


def test_spherical_keeps_the_norm_and_turns_evenly():
    start, end = (3 * torch.nn.functional.normalize(random(seed, 4, 5), dim=-1) for seed in (0, 1))
    points = spherical(start, end, T)
    torch.testing.assert_close(points.norm(dim=-1), torch.full((7, 4), 3.0).double())
    cosines = torch.nn.functional.cosine_similarity(points[1:], points[:-1], dim=-1)
    torch.testing.assert_close(cosines, cosines[:1].expand(6, 4))
    assert (linear(start, end, T)[3].norm(dim=-1) < 2.9).all()  # where the straight path cuts inside


@every_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [-1.0, 1.0, 2.0, 0.0, 1 + 1e-6])
def test_degenerate_ends_stay_finite(path, dtype, factor):
    start = random(0, 4, 5).to(dtype)
    for one, other in [(start, factor * start), (factor * start, start), (0 * start, factor * start)]:
        points = path(one, other, T.to(dtype))
        assert points.isfinite().all() and points.norm(dim=-1).max() < 3 * start.norm(dim=-1).max()
        torch.testing.assert_close(points[0], one, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(points[-1], other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("family", ["none", "planar", "real_nvp"])
def test_interpolate_decodes_the_pushed_means(path, family):
    vae = tiny_vae(family)
    start, end = (random(seed, 3, 1, 4, 4).sign().relu() for seed in (0, 1))
    means = interpolate(vae, start, end, 5, path)
    assert means.shape == (5, 3, 1, 4, 4) and not means.requires_grad
    assert (means > 0).all() and (means < 1).all()
    for images, mean in ((start, means[0]), (end, means[-1])):
        loc, _, context = vae.encoder(images)
        pushed = vae.flow(context).call_and_ladj(loc)[0]
        torch.testing.assert_close(mean, vae.decoder(pushed).sigmoid())


def pairs_of(labels, num_pairs, seed=0):
    return different_label_pairs(torch.as_tensor(labels), num_pairs, torch.Generator().manual_seed(seed))


LABELS = {
    "sorted": [digit for digit in range(10) for _ in range(20)],
    "alternating": [0, 1] * 30,
    "one rare": [0] * 50 + [1] * 10,
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("seed", range(5))
def test_pairs_differ_and_no_image_comes_twice(labels, seed):
    pairs = pairs_of(labels, 10, seed)
    assert pairs.shape == (10, 2)
    assert all(labels[i] != labels[j] for i, j in pairs.tolist())
    assert len(set(pairs.flatten().tolist())) == 20


def test_pairs_are_a_function_of_the_seed():
    assert torch.equal(pairs_of(LABELS["sorted"], 8), pairs_of(LABELS["sorted"], 8))
    assert not torch.equal(pairs_of(LABELS["sorted"], 8), pairs_of(LABELS["sorted"], 8, seed=1))


def test_pairs_of_sorted_labels_are_not_the_first_digits():
    digits = {LABELS["sorted"][i] for i in pairs_of(LABELS["sorted"], 20).flatten().tolist()}
    assert len(digits) >= 8


@pytest.mark.parametrize(("labels", "num_pairs"), [([3] * 10, 1), ([0, 1, 2], 2), ([0] * 9 + [1], 2), ([], 1)])
def test_as_many_pairs_as_there_are(labels, num_pairs):
    pairs = pairs_of(labels, num_pairs)
    assert pairs.shape == (num_pairs - 1, 2)
    assert all(labels[i] != labels[j] for i, j in pairs.tolist())


def test_half_of_the_possible_pairs_are_always_found():
    """0-2 and 1-2 exist; a greedy 0-1 leaves the two 2s, yet one pair is found whatever the order."""
    for seed in range(20):
        assert len(pairs_of([0, 1, 2, 2], 1, seed)) == 1
