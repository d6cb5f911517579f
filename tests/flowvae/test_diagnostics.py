"""Diagnostics: exact parts of KL, a gap in closed form, and round trips that fail where float32 does."""

import math

import pytest
import torch
from examples import FLOW_SETTINGS, perturb, random, random_bits, tiny_config, tiny_vae
from tolerances import assert_close

from flowvae.adapters import TorchTransform
from flowvae.diagnostics import LARGE_ERROR, diagnose, gaussian_gap, round_trip, steps_of
from flowvae.evaluation import EvaluationConfig, draw_counts, nll_from
from flowvae.model.loading import build_vae
from flowvae.model.objectives import kl, log_mean_exp
from flowvae.randomness import NormalDraws

PRIOR = {"flow": "real_nvp", "num_transforms": 3, "hidden_features": [5]}
CONFIG = EvaluationConfig(
    num_elbo_samples=2,
    num_importance_samples=2,
    num_nll_images=2,
    chunk_size=7,
    num_figure_images=1,
    temperatures=(1.0,),
    seed=3,
)


@pytest.mark.parametrize("family", FLOW_SETTINGS)
@pytest.mark.parametrize("prior", [None, PRIOR], ids=["plain prior", "learned prior"])
def test_parts_of_kl_add_up(family, prior):
    """At the same draws they are the KL term of the bound."""
    settings = FLOW_SETTINGS[family][-1]
    vae, images = tiny_vae(family, settings=settings, prior=prior, latent_shape=[4]).eval(), random_bits(20)
    found = diagnose(vae, images, CONFIG)
    noise = NormalDraws(CONFIG.seed, "diagnostics", 4)(torch.arange(20), range(1), torch.float64)[0]
    densities = vae(images.pixels.double(), noise)
    expected = kl(densities).mean()
    total = sum(found.kl_per_dim) - sum(found.posterior_ladj) - sum(found.prior_ladj)
    size = densities.log_prior.abs().mean() + densities.log_posterior.abs().mean()
    assert_close(torch.tensor(total, dtype=torch.float64), expected, size=size.detach())
    assert len(found.kl_per_dim) == 4 and len(found.posterior_ladj) == settings["num_transforms"]
    assert len(found.prior_ladj) == (3 if prior else 0) and (found.round_trip is not None) == bool(prior)


def test_kl_of_a_dimension_of_a_plain_vae():
    """Within 5 standard errors of the closed form, which differs between the dimensions."""
    vae, images = tiny_vae(std=1.0).eval(), random_bits(4000)
    base = vae.posterior(images.pixels.double()).base
    exact = 0.5 * (base.loc.square() + base.scale.square() - 1) - base.scale.log()  # (N, D)
    noise_of_draw = (base.loc * base.scale).square() + 0.5 * (base.scale.square() - 1).square()
    stderr = (noise_of_draw.mean(0) / len(images)).sqrt()
    found = torch.tensor(diagnose(vae, images, CONFIG).kl_per_dim).double()
    assert ((found - exact.mean(0)).abs() < 5 * stderr).all()
    assert (exact.mean(0)[0] - exact.mean(0)[1]).abs() > 10 * stderr.max()


def test_gap_of_points_with_known_moments():
    points = random(0, 200, 3)
    centred = points - points.mean(0)
    white = centred @ torch.linalg.inv(torch.linalg.cholesky(centred.T.cov())).T
    assert gaussian_gap(white) == pytest.approx(0, abs=1e-9)
    scale, mean = torch.tensor([2.0, 1.0, 0.5]).double(), torch.tensor([0.0, 3.0, 0.0]).double()
    expected = 0.5 * ((4 + 1 + 0.25) + 9 - 3)  # the determinant is 1
    assert gaussian_gap(white * scale + mean) == pytest.approx(expected)
    assert gaussian_gap(white[:, :1] * math.e) == pytest.approx(0.5 * (math.e**2 - 1 - 2))


def prior_of(num_transforms, std):
    prior = PRIOR | {"num_transforms": num_transforms}
    return perturb(build_vae(tiny_config(prior=prior, latent_shape=[8]), seed=0), std).eval().prior


def test_a_shallow_prior_returns_to_its_noise():
    trip = round_trip(prior_of(2, 0.1), seed=0)
    assert 0 < trip.median < trip.worst < 1e-3 and trip.lost == 0


def test_a_deep_prior_far_from_its_start_does_not():
    with torch.no_grad():
        trip = round_trip(prior_of(80, 1.5), seed=0)
    assert trip.lost > 0 and trip.worst > LARGE_ERROR


def test_a_transform_that_cannot_be_divided_is_one_step():
    transform = TorchTransform(torch.distributions.AffineTransform(0.0, 2.0, event_dim=1))
    assert steps_of(transform, 3) == [transform]


def test_nll_from_fewer_draws():
    log_weights = random(1, 7, 5)
    assert_close(nll_from(log_weights, 7), -log_mean_exp(log_weights))
    assert_close(nll_from(log_weights, 1), -log_weights.mean(0))
    pairs = torch.stack([-log_mean_exp(log_weights[i : i + 2]) for i in (0, 2, 4)]).mean(0)
    assert_close(nll_from(log_weights, 2), pairs)
    assert (nll_from(log_weights, 7) < nll_from(log_weights, 1)).all()


@pytest.mark.parametrize(("count", "counts"), [(1, [1]), (2, [1, 2]), (7, [1, 2, 5, 7]), (50, [1, 2, 5, 10, 20, 50])])
def test_numbers_of_draws(count, counts):
    assert draw_counts(count) == counts
