"""Images from noise: means and draws, and what cannot be drawn."""

import pytest
import torch
from examples import NVP, PLAIN, random, tiny_vae
from tolerances import assert_close

from flowvae.randomness import generator
from flowvae.sampling import GREY, decode_noise


@pytest.fixture
def vae():
    return tiny_vae("real_nvp", prior={"flow": "real_nvp", **NVP, **PLAIN}).eval()


def test_means_are_those_of_the_likelihood_at_the_priors_latents(vae):
    noise = random(0, 7, 2)
    found = decode_noise(vae, noise, chunk=3)
    assert not found.lost.any()
    with torch.no_grad():
        assert_close(found.images, vae.likelihood(vae.prior.from_noise(noise)).mean)


def test_draws_are_values_of_pixels_and_depend_on_the_generator(vae):
    noise = random(0, 7, 2)
    first, again, other = (decode_noise(vae, noise, 3, generator("cpu", seed, "pixels")).images for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert set(first.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("drawn", [False, True])
def test_a_sample_without_finite_latents_is_grey(vae, drawn):
    noise = random(0, 5, 2)
    noise[2] = torch.inf
    images, lost = decode_noise(vae, noise, 4, generator("cpu", 0, "pixels") if drawn else None)
    assert lost.tolist() == [False, False, True, False, False]
    assert images.isfinite().all() and (images[2] == GREY).all()
    assert not (images[[0, 1, 3, 4]] == GREY).flatten(1).all(dim=1).any()
