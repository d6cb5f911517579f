"""Paths through latent space, and the pairs of images that they join."""

import pytest
import torch
from examples import random, tiny_vae
from tolerances import assert_agrees, assert_close

from flowvae.interpolation import PATHS, different_label_pairs, interpolate, linear, spherical

T = torch.linspace(0, 1, 7, dtype=torch.float64)
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@every_path
def test_ends_and_shape(path):
    start, end = random(0, 4, 5), random(1, 4, 5)
    assert path(start, end, T).shape == (7, 4, 5)
    assert_agrees(torch.stack((start, end)), lambda: path(start, end, T)[[0, -1]], [start, end])


@every_path
def test_reversed_path(path):
    start, end, t = random(0, 4, 5), random(1, 4, 5), T.clone()
    assert_agrees(path(end, start, t).flip(0), lambda: path(start, end, t), [start, end, t])


def test_linear_is_straight_and_even():
    start, end = random(0, 4, 5), random(1, 4, 5)
    steps = linear(start, end, T).diff(dim=0)
    assert_close(steps, ((end - start) / 6).expand(6, 4, 5), size=start.abs() + end.abs())


def test_spherical_keeps_the_norm_and_turns_evenly():
    start, end = (3 * torch.nn.functional.normalize(random(seed, 4, 5), dim=-1) for seed in (0, 1))

    def norms_and_cosines():
        points = spherical(start, end, t)
        return points.norm(dim=-1), torch.nn.functional.cosine_similarity(points[1:], points[:-1], dim=-1)

    t = T.clone()
    first = norms_and_cosines()[1][:1].expand(6, 4)
    assert_agrees((torch.full((7, 4), 3.0).double(), first), norms_and_cosines, [start, end, t])
    assert (linear(start, end, T)[3].norm(dim=-1) < 2.9).all()  # where the straight path cuts inside


@every_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [-1.0, 1.0, 2.0, 0.0, 1 + 1e-6])
def test_degenerate_ends_stay_finite(path, dtype, factor):
    start = random(0, 4, 5).to(dtype)
    for one, other in [(start, factor * start), (factor * start, start), (0 * start, factor * start)]:
        points = path(one, other, T.to(dtype))
        assert points.isfinite().all() and points.norm(dim=-1).max() < 3 * start.norm(dim=-1).max()
        assert_close(points[[0, -1]], torch.stack((one, other)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("family", ["none", "planar", "real_nvp"])
def test_interpolate_decodes_the_pushed_means(path, family):
    vae = tiny_vae(family)
    start, end = (random(seed, 3, 1, 4, 4).sign().relu() for seed in (0, 1))
    means = interpolate(vae, start, end, 5, path)

    def pushed_mean(images):
        loc, _, context = vae.encoder(images)
        return vae.decoder(vae.posterior_flow(context).call_and_ladj(loc)[0]).sigmoid()

    assert means.shape == (5, 3, 1, 4, 4) and not means.requires_grad
    assert (means > 0).all() and (means < 1).all()
    for images, mean in ((start, means[0]), (end, means[-1])):
        assert_agrees(mean, lambda images=images: pushed_mean(images), list(vae.parameters()))


PRIOR = {"flow": "real_nvp", "num_transforms": 2, "hidden_features": [5]}


def test_a_path_in_the_space_of_the_noise():
    """Its ends are those of the path in the latent space, its middle is not; without a flow both are the same."""
    start, end = (random(seed, 3, 1, 4, 4).sign().relu() for seed in (0, 1))
    vae = tiny_vae(prior=PRIOR, std=1.0).eval()
    latent, base = (interpolate(vae, start, end, 3, "linear", space) for space in ("latent", "base"))
    assert torch.allclose(latent[[0, -1]], base[[0, -1]], atol=1e-9)
    assert (latent[1] - base[1]).abs().max() > 1e-4
    with torch.no_grad():
        ends = [vae.prior.to_noise(vae.posterior(x).push_loc()) for x in (start, end)]
        middle = vae.likelihood(vae.prior.from_noise(sum(ends) / 2)).mean
    assert torch.allclose(base[1], middle, atol=1e-9)
    plain = tiny_vae().eval()
    paths = [interpolate(plain, start, end, 3, "spherical", space) for space in ("latent", "base")]
    assert torch.equal(*paths)


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
def test_fewer_pairs_if_there_are_no_more(labels, num_pairs):
    pairs = pairs_of(labels, num_pairs)
    assert pairs.shape == (num_pairs - 1, 2)
    assert all(labels[i] != labels[j] for i, j in pairs.tolist())


def test_half_of_the_possible_pairs_are_always_found():
    """Two pairs exist, 0-2 and 1-2. A greedy 0-1 leaves the two 2s, but one pair is found in any order."""
    for seed in range(20):
        assert len(pairs_of([0, 1, 2, 2], 1, seed)) == 1
