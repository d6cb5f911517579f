"""The prior of a VAE: a density that integrates to 1, draws that have this density, and flows that train."""

import itertools
import math

import pytest
import torch
from examples import FLOW_SETTINGS, random, random_bits, settings_for, tiny_vae, training_config
from tolerances import assert_agrees, assert_close, assert_ladj, assert_round_trip, jacobian_of
from torch.distributions import Independent, Normal

import flowvae
from flowvae.model.batch_norm import PopulationStatistics
from flowvae.model.flows import FLOWS
from flowvae.model.flows.normalization import ActNormLayer
from flowvae.model.loading import load
from flowvae.model.objectives import elbo
from flowvae.training import population
from flowvae.training.loop import fit
from flowvae.training.population import recompute_statistics

WITHOUT_INVERSE = ("planar", "sylvester")
ROTATIONS = {"householder"}  # N(0, I) stays what it is, so the density has no gradient
INVERTIBLE = [
    (family, settings)
    for family in FLOW_SETTINGS
    if family not in WITHOUT_INVERSE
    for settings in FLOW_SETTINGS[family]
]
NORMALISED = [
    (family, settings)
    for family, settings in INVERTIBLE
    if settings.get("normalization", "none") != "none" or settings.get("net_batch_norm")
]
GRID_ERROR = 2e-3  # of an integral over a density whose slope jumps at knots, by the rule of rectangles
NUM_DRAWS, NUM_POINTS = 4000, 400
TRAIN, VALID = random_bits(20), random_bits(6, seed=1)
every_prior = pytest.mark.parametrize(("family", "settings"), INVERTIBLE)
every_normalisation = pytest.mark.parametrize(("family", "settings"), NORMALISED)


def without_context(family):
    field = FLOWS[family].config.context_field
    return {field: False} if field else {}


def vae_with(family, of_prior, latent_shape=(2,), posterior="none", **config):
    """A VAE with a flow in the prior."""
    prior = {"flow": family, **settings_for(of_prior, latent_shape), **without_context(family)}
    return tiny_vae(posterior, prior=prior, latent_shape=list(latent_shape), **config)


def fitted(family, settings, **config):
    vae = vae_with(family, settings, std=0.2, **config)
    fit(vae, TRAIN, VALID, training_config(epochs=2), seed=0)
    return vae


def statistics_of(vae):
    return [layer for layer in vae.modules() if isinstance(layer, PopulationStatistics)]


def standard_normal(z):
    return Independent(Normal(torch.zeros_like(z), torch.ones_like(z)), 1)


@every_prior
@torch.no_grad()
def test_density_in_two_dimensions(family, settings):
    """It integrates to 1, and draws have the means and second moments that it has."""
    prior = vae_with(family, settings).eval().prior
    torch.manual_seed(0)
    draws = prior.sample((NUM_DRAWS,))
    assert draws.shape == (NUM_DRAWS, 2) and draws.dtype == torch.float64
    low, high = draws.min(0).values, draws.max(0).values
    margin = high - low
    axes = [
        torch.linspace(*ends, NUM_POINTS, dtype=torch.float64) for ends in zip(low - margin, high + margin, strict=True)
    ]
    cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    points = torch.cartesian_prod(*axes)
    mass = prior.log_prob(points).exp() * cell
    assert abs(mass.sum() - 1) < GRID_ERROR
    for power in (1, 2):
        powers = ((draws - draws.mean(0)) / draws.std(0)) ** power
        expected = mass @ ((points - draws.mean(0)) / draws.std(0)) ** power
        stderr = powers.std(0) / math.sqrt(NUM_DRAWS)
        assert ((powers.mean(0) - expected).abs() < 5 * stderr + GRID_ERROR).all()


@every_prior
@pytest.mark.parametrize("latent_shape", [(2,), (8,)])
def test_density_is_that_of_the_noise_times_the_jacobian(family, settings, latent_shape):
    vae = vae_with(family, settings, latent_shape).eval()
    z = random(0, 3, 5, *latent_shape)
    noise, jacobian = jacobian_of(vae.prior.transform, z)
    assert_ladj(vae.prior.transform.log_abs_det_jacobian(z, noise), jacobian)
    expected = standard_normal(noise).log_prob(noise) + torch.linalg.slogdet(jacobian).logabsdet
    assert_agrees(expected, lambda: vae.prior.log_prob(z), [z, *vae.prior_flow.parameters()])


@every_prior
@pytest.mark.parametrize("latent_shape", [(2,), (8,)])
def test_draws_are_what_the_flow_maps_to_the_noise(family, settings, latent_shape):
    vae = vae_with(family, settings, latent_shape).eval()
    noise = random(0, 3, 5, *latent_shape)
    assert_round_trip(vae.prior.transform, noise)
    z = vae.prior.from_noise(noise)
    assert torch.equal(z, vae.prior.transform.inv(noise))
    assert torch.equal(vae.prior.to_noise(z), vae.prior.transform(z))


@pytest.mark.parametrize("settings", [settings for _, settings in INVERTIBLE if "map_shape" in settings])
@pytest.mark.parametrize("image_shape", [(1, 4, 4), (1, 8, 4)])
def test_prior_of_a_map(settings, image_shape):
    _, height, width = image_shape
    vae = vae_with("conv_real_nvp", settings, (2, height // 2, width // 2), image_shape=image_shape, std=0.2).eval()
    noise = random(0, 2, 3, vae.latent_dim)
    assert_round_trip(vae.prior.transform, noise)
    assert vae.prior.log_prob(noise).shape == (2, 3)
    assert vae.sample(4).shape == (4, *image_shape)


def test_without_a_flow_it_is_standard_normal():
    vae = tiny_vae().eval()
    z = random(0, 4, 3, 2)
    assert_close(vae.prior.log_prob(z), standard_normal(z).log_prob(z), size=z.square().sum(-1) + 1)
    assert torch.equal(vae.prior.to_noise(z), z) and torch.equal(vae.prior.from_noise(z), z)
    torch.manual_seed(0)
    draws = vae.prior.sample((5,))
    torch.manual_seed(0)
    assert torch.equal(draws, torch.randn(5, 2, dtype=torch.float64))


def refused(message, **parts):
    with pytest.raises(ValueError, match=message) as caught:
        flowvae.VAE((1, 4, 4), (4,), **parts)
    assert "\n" not in str(caught.value)


def config_of(family, settings):
    return FLOWS[family].config(flow=family, **settings_for(settings, (4,)))


@pytest.mark.parametrize("family", WITHOUT_INVERSE)
def test_families_without_an_inverse_are_refused(family):
    settings = FLOW_SETTINGS[family][0] | without_context(family)
    refused(f"with an inverse in the prior.*{family} has none", prior=config_of(family, settings))


@pytest.mark.parametrize("family", [family for family in FLOWS if FLOWS[family].config.context_field])
def test_a_prior_has_no_context(family):
    """Asking for one is an error. The default, which fits posteriors, is replaced and saved as what it then is."""
    field = FLOWS[family].config.context_field
    settings = FLOW_SETTINGS[family][0]
    refused(f"expected {field}: false in a prior", prior=config_of(family, settings | {field: True}))
    if family not in WITHOUT_INVERSE:
        default = config_of(family, {name: value for name, value in settings.items() if name != field})
        vae = flowvae.VAE((1, 4, 4), (4,), posterior=default, prior=default)
        assert getattr(vae.config.posterior, field) and not getattr(vae.config.prior, field)
        assert vae.posterior_flow.context_features > 0 and vae.prior_flow.context_features == 0


def test_the_default_is_saved_as_false(tmp_path):
    vae = flowvae.VAE((1, 4, 4), (4,), prior=flowvae.RealNVP(num_transforms=1))
    vae.save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.config == vae.config and loaded.config.prior.context is False


@every_prior
def test_every_weight_gets_a_gradient(family, settings):
    vae = vae_with(family, settings, (8,), posterior="planar")
    vae(random(2, 5, 1, 4, 4).sign().relu(), random(3, 5, 8))  # act norm starts where its gradient is 0
    elbo(vae(random(0, 5, 1, 4, 4).sign().relu(), random(1, 5, 8))).mean().backward()
    weights = [*vae.prior_flow.parameters()] if family not in ROTATIONS else []
    assert (family in ROTATIONS | {"none"}) == (weights == [])
    assert all(weight.grad is not None and weight.grad.any() for weight in [*weights, *vae.encoder.parameters()])


@every_normalisation
def test_no_image_depends_on_its_batch_after_fit(family, settings):
    vae = fitted(family, settings)
    x, noise = VALID.pixels.double(), random(0, 3, 6, 2)
    with torch.no_grad():
        bound = elbo(vae(x, noise))
        for first, last in itertools.pairwise((0, 1, 3, 6)):
            part = slice(first, last)
            found = elbo(vae(x[part], noise[:, part]))
            assert_agrees(found, lambda: elbo(vae(x, noise))[:, part], [noise, *vae.parameters()])  # noqa: B023
    assert bound.isfinite().all() and vae.sample(3).isfinite().all()
    assert_round_trip(vae.prior.transform, random(1, 7, 2))


@every_normalisation
@pytest.mark.parametrize("in_posterior", [False, True])
def test_population_statistics_of_a_prior(family, settings, in_posterior):
    """If all images are in one batch, the moments of the population are those of that batch."""
    both = {"posterior": family, "settings": settings} if in_posterior else {}
    vae = vae_with(family, settings, **both)
    layers = statistics_of(vae)
    for layer in layers:  # earlier values do not matter
        layer.mean += 1
        layer.variance += 1
    recompute_statistics(vae, TRAIN, seed=0)
    draws = population.generator("cpu", 0, "population")
    x, noise = TRAIN.pixels.double(), torch.randn(20, 2, dtype=torch.float64, generator=draws)
    with torch.no_grad():
        vae.train()(x, noise)  # initialises act norm
        assert_agrees(vae.eval()(x, noise), lambda: vae.train()(x, noise), [noise, *vae.parameters()])
    of_prior = [layer for layer in vae.prior_flow.modules() if isinstance(layer, PopulationStatistics)]
    assert bool(of_prior) == (settings["normalization"] == "batch_norm" or settings["net_batch_norm"])
    assert len(layers) == (2 if in_posterior else 1) * len(of_prior)


@pytest.mark.parametrize(
    ("family", "settings"), [each for each in NORMALISED if each[1]["normalization"] == "act_norm"]
)
def test_act_norm_of_a_prior_starts_from_the_first_batch(family, settings):
    """From z, not from noise: the last layer's output has mean 0 and variance 1 over the draws of that batch."""
    vae = vae_with(family, settings)
    layers = [layer for layer in vae.prior_flow.modules() if isinstance(layer, ActNormLayer)]
    for layer in layers:
        torch.nn.init.zeros_(layer.log_scale)
        torch.nn.init.zeros_(layer.shift)
    z = vae.train()(TRAIN.pixels.double(), random(0, 20, 2)).z.detach()
    assert layers and all(layer.initialized for layer in layers)
    features = vae.prior.to_noise(z).view(20, layers[-1].num_features, -1).transpose(1, 2).flatten(0, 1)
    zeros = features.new_zeros(features.shape[1])
    assert_close((features.mean(0), features.var(0, correction=0)), (zeros, zeros + 1), size=(zeros + 10, zeros + 10))


@every_normalisation
def test_what_fit_leaves_is_saved(family, settings, tmp_path):
    vae = fitted(family, settings)
    vae.save(tmp_path)
    loaded, noise = load(tmp_path), random(0, 6, 2)
    for found, expected in zip(loaded(VALID.pixels.double(), noise), vae(VALID.pixels.double(), noise), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(loaded.prior.from_noise(noise), vae.prior.from_noise(noise))
