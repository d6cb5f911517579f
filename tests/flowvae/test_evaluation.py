"""Scores: the estimators are unbiased and calibrated, and evaluation builds no graph."""

import math

import pytest
import torch
from examples import random, random_bits, tiny_vae
from tolerances import assert_agrees, assert_close
from torch.distributions import Normal, kl_divergence

from flowvae.data.images import ImageSet
from flowvae.evaluation import (
    Estimate,
    EvaluationConfig,
    active_units,
    bits_per_dim,
    difference_estimate,
    evaluate,
    log_importance_weights,
    mean_estimate,
)
from flowvae.model.networks.heads import MIN_SCALE
from flowvae.model.objectives import elbo, importance_weighted_bound

SETTINGS = {
    "num_elbo_samples": 4,
    "num_importance_samples": 30,
    "num_nll_images": 20,
    "chunk_size": 1000,
    "num_figure_images": 1,
    "seed": 0,
}


def scores(vae, images, **changes):
    return evaluate(vae, images, EvaluationConfig(**SETTINGS | changes))


def watch(vae):
    """Record what every forward pass returns."""
    seen = []
    vae.register_forward_hook(lambda module, inputs, densities: seen.append((module.training, densities)))
    return seen


@pytest.mark.parametrize("chunk_size", [8, 24, 40, 96, 10_000])
def test_chunks_do_not_change_the_bound(chunk_size):
    """The chunks take multiples of 16 numbers from the stream of noise, because torch draws 16 at once."""
    vae, images, indices = tiny_vae("planar"), random_bits(10), torch.tensor([1, 3, 5, 9])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        log_weights = log_importance_weights(vae, images, indices, 24, chunk_size, generator)
        noise = torch.randn(24, 4, 2, dtype=torch.float64, generator=generator.manual_seed(0))
        x = images.pixels[indices].double()
        assert_agrees(log_weights, lambda: elbo(vae(x, noise)), [noise, *vae.parameters()])


def test_chunks_bound_the_decoder_passes():
    vae, images = tiny_vae(), random_bits(10)
    seen = watch(vae)
    log_importance_weights(vae, images, torch.arange(4), 25, 40, torch.Generator())
    passes = [densities.log_prior.numel() for _, densities in seen]
    assert sum(passes) == 4 * 25 and max(passes) <= 40


def test_no_graph_and_not_one_image_at_a_time():
    vae, images = tiny_vae("real_nvp").train(), random_bits(50)
    seen = watch(vae)
    scores(vae, images)
    assert len(seen) == 2  # 50 x 4 draws and 20 x 30 draws both fit a chunk
    assert not any(tensor.requires_grad for _, densities in seen for tensor in densities)
    assert not any(training for training, _ in seen)
    assert all(parameter.grad is None for parameter in vae.parameters())


@pytest.mark.parametrize("dynamic", [False, True])
def test_scores_do_not_depend_on_what_happened_before(dynamic):
    vae = tiny_vae("planar")
    grey = torch.from_numpy(random_bits(50).pixels.numpy() * 90)
    images = ImageSet(grey if dynamic else grey // 90, "dynamic" if dynamic else "bits")
    first = scores(vae, images)
    torch.randn(17)
    assert scores(vae, images) == first
    assert scores(vae, images, seed=1) != first


def test_terms_add_up_and_nll_is_below_negative_elbo():
    evaluation = scores(tiny_vae("planar", std=0.8), random_bits(60), num_importance_samples=500)
    assert_close(evaluation.negative_elbo.value, evaluation.reconstruction.value + evaluation.kl.value)
    assert evaluation.nll.value < evaluation.negative_elbo.value
    assert (evaluation.num_images, evaluation.num_nll_images) == (60, 20)


def test_a_subset_larger_than_the_test_set():
    assert scores(tiny_vae(), random_bits(12)).num_nll_images == 12


def test_nll_of_a_model_that_ignores_its_latents():
    """p(x|z) = p(x) and q = p make every importance weight p(x): all scores are exact."""
    vae, images = tiny_vae(std=0), random_bits(4000)
    with torch.no_grad():
        vae.decoder.convolutions[-2].weight.zero_()
        vae.decoder.convolutions[-2].bias.fill_(math.log(0.3 / 0.7))
        raw_scale = math.log(math.expm1(1 - MIN_SCALE))  # of a scale of 1
        vae.encoder.head.layers[-1].weight.zero_()
        vae.encoder.head.layers[-1].bias.copy_(torch.tensor([0, 0, raw_scale, raw_scale], dtype=torch.float64))
    ink = images.pixels.flatten(1).double().sum(1)
    expected = -(ink * math.log(0.3) + (16 - ink) * math.log(0.7)).mean().item()
    evaluation = scores(vae, images)
    for estimate in (evaluation.nll, evaluation.negative_elbo, evaluation.reconstruction):
        assert_close(estimate.value, expected)
    assert_close(evaluation.kl.value, 0.0)


def test_kl_of_a_plain_vae_is_the_closed_form():
    """Within 5 standard errors of the Monte Carlo mean, each below 5 % of the KL."""
    vae, images = tiny_vae(std=0.8), random_bits(200)
    estimate = scores(vae, images, num_elbo_samples=20).kl.value
    with torch.no_grad():
        loc, scale, _ = vae.encoder(images.pixels.double())
    expected = kl_divergence(Normal(loc, scale), Normal(torch.zeros(2).double(), 1.0)).sum(-1).mean()
    variance = (0.5 * (scale**2 - 1) ** 2 + (loc * scale) ** 2).sum() / 20  # of the Monte Carlo sum over images
    assert abs(estimate - expected) < 5 * variance.sqrt() / 200
    assert variance.sqrt() / 200 < 0.05 * expected


def test_mean_estimate():
    estimate = mean_estimate(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert estimate.value == 3.0
    assert_close(estimate.stderr, math.sqrt(14 / 3 / 4))


def test_difference_estimate_on_all_images_is_the_plain_mean():
    cheap, exact = random(0, 50), random(1, 50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    estimate, expected = difference_estimate(cheap, order, exact[order]), mean_estimate(exact)
    assert_close((estimate.value, estimate.stderr), (expected.value, expected.stderr))


def test_difference_estimate_is_unbiased_and_calibrated():
    """1,500 test sets of N = 120 images with mean 1, of which n = 30 are measured.

    All three comparisons are within 5 standard errors. The relative one of a standard deviation from n numbers is
    1 / sqrt(2 n); the mean of 1,500 variances, each from 30 numbers, has sqrt(2 / 29 / 1500).
    """
    estimates, stderrs = [], []
    for seed in range(1500):
        exact = 1 + 2 * random(2 * seed, 120)
        cheap = exact + 3 + 0.8 * random(2 * seed + 1, 120)
        subset = torch.randperm(120, generator=torch.Generator().manual_seed(seed))[:30]
        estimate = difference_estimate(cheap, subset, exact[subset])
        estimates.append(estimate.value)
        stderrs.append(estimate.stderr)
    estimates, stderrs = torch.tensor(estimates), torch.tensor(stderrs)
    assert abs(estimates.mean() - 1) < 5 * estimates.std() / 1500**0.5
    expected = math.sqrt(4 / 120 + 0.64 * (1 / 30 - 1 / 120))
    assert estimates.std() == pytest.approx(expected, rel=5 / math.sqrt(2 * 1500))
    assert stderrs.square().mean() == pytest.approx(expected**2, rel=5 * math.sqrt(2 / 29 / 1500))


def test_active_units_subtracts_the_noise_of_the_draws():
    num_images, num_draws = 4000, 10
    locs = random(0, num_images, 4) * torch.tensor([1.0, 0.2, 0.0, 0.05])  # variances 1, 0.04, 0, 0.0025
    draws = locs + torch.tensor([0.5, 0.9, 1.0, 1.0]) * random(1, num_draws, num_images, 4)
    z_mean, z_variance = draws.mean(0), draws.var(0)
    assert (z_mean.var(0) > 0.01).all()  # without the correction all would count
    assert active_units(z_mean, z_variance, num_draws) == 2
    assert active_units(z_mean, z_variance, num_draws, threshold=0.5) == 1


def test_bits_per_dim_of_a_uniform_distribution():
    """Every one of 3 x 4 x 5 values takes 8 bits, whatever the size of the image."""
    for shape in ((3, 4, 5), (1, 28, 28)):
        nats = Estimate(math.prod(shape) * math.log(256), math.prod(shape) * math.log(2))
        bits = bits_per_dim(nats, shape)
        assert_close((bits.value, bits.stderr), (8.0, 1.0))


def test_bits_per_dim_of_a_known_distribution_are_its_entropy():
    """8-bit images drawn from p(x): a model that ignores its latents and knows p(x) costs the entropy of p(x).

    Within 5 standard errors of 1,000 images, each below 0.01 bits.
    """
    loc, log_scale = 0.2, -1.5
    vae = tiny_vae(std=0, likelihood={"name": "discretized_logistic"})
    with torch.no_grad():
        vae.decoder.convolutions[-2].weight.zero_()
        vae.decoder.convolutions[-2].bias.copy_(torch.tensor([loc, log_scale]).repeat_interleave(4))
        known = vae.likelihood(torch.zeros(1000, 2).double())
        x = known.sample(torch.Generator().manual_seed(0))
        edges = (2 * torch.arange(255, dtype=torch.float64) + 1) / 255 - 1
        scale = known.log_scale.flatten()[0].exp()
        below = torch.sigmoid((edges - loc) / scale)
        p = torch.cat((below, torch.ones(1).double())) - torch.cat((torch.zeros(1).double(), below))
        entropy = -torch.special.xlogy(p, p).sum().item() / math.log(2)
        bits = bits_per_dim(mean_estimate(-importance_weighted_bound(vae(x, random(1, 10, 1000, 2)))), (1, 4, 4))
    assert bits.stderr < 0.01
    assert abs(bits.value - entropy) < 5 * bits.stderr
