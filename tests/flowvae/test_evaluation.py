"""Scores: the estimators are unbiased and calibrated, and evaluation builds no graph."""

import math

import numpy as np
import pytest
import torch
from examples import EVALUATION, random, random_bits, tiny_vae
from tolerances import assert_agrees, assert_close
from torch.distributions import Normal, kl_divergence

from flowvae.data.images import ImageSet
from flowvae.estimates import Estimate, mean_estimate
from flowvae.evaluation import (
    EvaluationConfig,
    active_units,
    bits_per_dim,
    effective_sample_size,
    evaluate,
    log_importance_weights,
    num_unit_samples,
    score_images,
)
from flowvae.model.networks.heads import MIN_SCALE
from flowvae.model.objectives import elbo, importance_weighted_bound
from flowvae.randomness import NormalDraws


def scores(vae, images, **changes):
    return evaluate(vae, images, EvaluationConfig(**EVALUATION | changes))


def watch(vae):
    """Record what every forward pass returns."""
    seen = []
    vae.register_forward_hook(lambda module, inputs, densities: seen.append((module.training, densities)))
    return seen


@pytest.mark.parametrize("chunk_size", [1, 7, 24, 96, 10_000])
def test_chunks_do_not_change_log_weights(chunk_size):
    vae, images, indices = tiny_vae("planar"), random_bits(10), torch.tensor([1, 3, 5, 9])
    draws = NormalDraws(0, "importance", 2)
    with torch.no_grad():
        log_weights = log_importance_weights(vae, images, indices, 25, chunk_size, draws)
        noise = draws(indices, range(25), torch.float64)
        x = images.pixels[indices].double()
        assert_agrees(log_weights, lambda: elbo(vae(x, noise)), [noise, *vae.parameters()])


@pytest.mark.parametrize("family", ["none", "real_nvp"])
def test_chunks_change_no_score(family):
    """Up to rounding: the noise is a function of seed, image and draw."""
    vae, images = tiny_vae(family), random_bits(30)
    expected = scores(vae, images, chunk_size=10_000)
    for chunk_size in (1, 10, 33):
        found = scores(vae, images, chunk_size=chunk_size)
        assert found.active_units == expected.active_units
        for name in ("reconstruction", "kl", "negative_elbo", "nll"):
            pair = getattr(found, name), getattr(expected, name)
            assert_close(*((estimate.value, estimate.stderr) for estimate in pair), size=(100.0, 100.0))


def test_an_image_has_the_same_scores_in_another_set():
    """At its position. More draws than before begin with those of before."""
    vae, images = tiny_vae("planar"), random_bits(30)
    all_images, first = (
        score_images(vae.eval(), chosen, EvaluationConfig(**EVALUATION | {"num_nll_images": 30}))[0]
        for chosen in (images, ImageSet(images.pixels[:10], "bits"))
    )
    for name in ("negative_elbo", "reconstruction", "kl", "nll", "effective_samples"):
        pair = getattr(first, name), getattr(all_images, name)[:10]
        assert_close(*map(torch.from_numpy, pair), size=100.0)
    draws = NormalDraws(0, "latent", 3)
    assert torch.equal(
        draws(torch.arange(4), range(5), torch.float64)[:2], draws(torch.arange(4), range(2), torch.float64)
    )


def test_chunks_bound_the_decoder_passes():
    vae, images = tiny_vae(), random_bits(10)
    seen = watch(vae)
    log_importance_weights(vae, images, torch.arange(4), 25, 40, NormalDraws(0, "importance", 2))
    passes = [densities.log_prior.numel() for _, densities in seen]
    assert sum(passes) == 4 * 25 and max(passes) <= 40


def test_effective_sample_size():
    """Equal weights count as all draws, one that dominates as one; in between (sum w)^2 / sum w^2."""
    weights = torch.tensor([[1.0, 0.0, 3.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    expected = torch.tensor([2.0, 1.0, 1.6], dtype=torch.float64)
    assert_close(effective_sample_size(weights.log() - 900), expected, size=torch.full_like(expected, 2000.0))


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
    first = vars(scores(vae, images).images)
    torch.randn(17)
    again, other = (vars(scores(vae, images, seed=seed).images) for seed in (0, 1))
    for name, values in first.items():
        assert np.array_equal(again[name], values) and not np.array_equal(other[name], values)


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


def test_active_units_subtracts_the_noise_of_the_draws():
    num_images, num_draws = 4000, 10
    locs = random(0, num_images, 4) * torch.tensor([1.0, 0.2, 0.0, 0.05])  # variances 1, 0.04, 0, 0.0025
    draws = locs + torch.tensor([0.5, 0.9, 1.0, 1.0]) * random(1, num_draws, num_images, 4)
    z_mean, z_variance = draws.mean(0), draws.var(0)
    assert (z_mean.var(0) > 0.01).all()  # without the correction all would count
    assert active_units(z_mean, z_variance, num_draws) == 2
    assert active_units(z_mean, z_variance, num_draws, threshold=0.5) == 1


@pytest.mark.parametrize("num_images", [500, 10_000])
def test_dimensions_that_equal_the_prior_are_not_active(num_images):
    """Of 200, with as many draws as evaluation takes; with the former 5 and 2 draws a fifth and a sixth counted."""
    num_samples = num_unit_samples(num_images)
    means, variances = [], []
    for part in random(0, num_images, 1).split(1000):
        z = torch.randn(num_samples, len(part), 200, generator=torch.Generator().manual_seed(len(means)))
        means.append(z.mean(0))
        variances.append(z.var(0))
    assert active_units(torch.cat(means), torch.cat(variances), num_samples) == 0


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
        nats = -importance_weighted_bound(vae(x, random(1, 10, 1000, 2)))
        bits = bits_per_dim(mean_estimate(nats.numpy()), (1, 4, 4))
    assert bits.stderr < 0.01
    assert abs(bits.value - entropy) < 5 * bits.stderr
