"""NLL of missing pixels against integrals over a grid of latents, and against the sum over all missing bits."""

import itertools
import math

import pytest
import torch
from examples import FLOW_SETTINGS, random_bits, tiny_vae

from flowvae.conditional import ObservedPixels, log_prob_observed, pilot_images, prior_moments, upper_half
from flowvae.model.distributions import log_standard_normal

UPPER = upper_half(4, 4, torch.device("cpu"))
REAL_NVP = {"flow": "real_nvp", **FLOW_SETTINGS["real_nvp"][-1]}
BOTH = torch.ones(4, 4, dtype=torch.bool)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def dependent_vae(prior=None):
    """A tiny VAE whose pixels depend on its two latents."""
    return tiny_vae(prior=prior).eval().requires_grad_(False)


def on_a_grid(vae, x, observed, side=8.0, count=321):
    """log p(x_o) by a sum over a grid of noise, which the prior's flow maps to latents."""
    axis = torch.linspace(-side, side, count, dtype=torch.float64)
    noise = torch.cartesian_prod(axis, axis)
    z = vae.prior.from_noise(noise)
    logits = vae.likelihood(z).logits
    terms = x[:, None] * logits - torch.nn.functional.softplus(logits)
    log_likelihood = (terms * observed).sum((-3, -2, -1))
    cell = 2 * math.log(2 * side / (count - 1))
    return torch.logsumexp(log_likelihood + log_standard_normal(noise), dim=1) + cell


@pytest.mark.parametrize("prior", [None, REAL_NVP], ids=["standard normal", "flow"])
def test_it_is_the_integral_over_latents(prior):
    vae = dependent_vae(prior)
    x = random_bits(4).pixels.double()
    found = log_prob_observed(vae, x, UPPER, random_bits(8, seed=1).pixels.double(), 1000, 20, 0)
    assert torch.allclose(found.log_prob_observed, on_a_grid(vae, x, UPPER), atol=0.06)
    assert (found.effective > 100).all()


def test_it_is_the_sum_over_all_missing_pixels():
    """Three pixels are missing, so p(x_o) is the sum of p(x) over eight images."""
    vae, x = dependent_vae(), random_bits(1).pixels.double()
    observed = torch.ones(4, 4, dtype=torch.bool)
    observed[3, :3] = False
    completions = x.repeat(8, 1, 1, 1)
    completions[:, 0, 3, :3] = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    total = torch.logsumexp(on_a_grid(vae, completions, BOTH), dim=0)
    found = log_prob_observed(vae, x, observed, random_bits(8, seed=1).pixels.double(), 1000, 20, 0)
    assert torch.allclose(found.log_prob_observed, total, atol=0.15)
    assert found.log_prob_observed > on_a_grid(vae, x, BOTH)


def test_missing_pixels_and_other_images_have_no_effect():
    vae, x = dependent_vae(), random_bits(30).pixels.double()
    pilot = random_bits(4, seed=1).pixels.double()
    found = log_prob_observed(vae, x, UPPER, pilot, 8, 5, 0).log_prob_observed
    others = torch.where(UPPER, x, 1 - x)
    assert torch.equal(log_prob_observed(vae, others, UPPER, pilot, 8, 5, 0).log_prob_observed, found)
    first = log_prob_observed(vae, x[:25], UPPER, pilot, 8, 5, 0).log_prob_observed
    assert torch.allclose(first, found[:25])
    assert not torch.equal(log_prob_observed(vae, x, UPPER, pilot, 8, 5, 1).log_prob_observed, found)


@pytest.mark.parametrize(
    "likelihood", [{"name": "discretized_logistic"}, {"name": "logistic_mixture", "num_mixtures": 2}]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_8_bit_values_are_a_product_over_positions(likelihood, channels):
    """The two halves add up to the whole image, although the channels of a position depend on each other."""
    vae = tiny_vae(likelihood=likelihood, image_shape=(channels, 4, 4))
    x = torch.rand(5, channels, 4, 4, dtype=torch.float64, generator=draws()).mul(255).round() / 255
    moments = prior_moments(vae, draws())
    v = torch.randn(3, 5, vae.latent_dim, dtype=torch.float64, generator=draws())
    halves = [ObservedPixels(vae, moments, x, mask)(v).log_likelihood for mask in (UPPER, ~UPPER)]
    z = ObservedPixels(vae, moments, x, UPPER).to_latents(v)
    torch.testing.assert_close(sum(halves), vae.likelihood(z).log_prob(x))


def test_coordinates_have_the_covariance_of_the_prior():
    vae = dependent_vae(REAL_NVP)
    moments = prior_moments(vae, draws())
    target = ObservedPixels(vae, moments, random_bits(2).pixels.double(), UPPER)
    z = vae.prior.from_noise(torch.randn(3000, 2, dtype=torch.float64, generator=draws(9)))[:, None]
    v = target.from_latents(z)
    assert torch.allclose(v.squeeze(1).T.cov(), torch.eye(2, dtype=torch.float64), atol=0.15)
    assert torch.allclose(target.to_latents(v), z)
    point = target(v[:5])
    density = torch.func.jacrev(target.to_latents)(v[0, 0]).det().abs().log()
    assert torch.allclose(point.log_prior, vae.prior.log_prob(z[:5]) + density)


def test_an_odd_height_has_more_observed_rows():
    assert upper_half(5, 2, torch.device("cpu")).sum() == 6


def test_pilot_images_are_a_function_of_the_seed():
    vae, images = tiny_vae(), random_bits(50)
    first, again, other = (pilot_images(images, vae, seed) for seed in (0, 0, 1))
    assert len(first) == 8 and torch.equal(first, again) and not torch.equal(first, other)
