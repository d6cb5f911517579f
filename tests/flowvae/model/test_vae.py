"""The VAE as a whole: every likelihood on vectors and maps, in full and in reduced precision, saved and loaded."""

import math

import pytest
import torch
from examples import FLOW_SETTINGS, perturb, random, tiny_config
from tolerances import assert_agrees, assert_close

from flowvae.model.distributions import DiagonalNormal, TransformedDistribution, log_standard_normal
from flowvae.model.likelihoods import LIKELIHOODS
from flowvae.model.loading import build_vae, load
from flowvae.model.objectives import elbo

LIKELIHOOD_SETTINGS = (
    {"name": "bernoulli"},
    {"name": "discretized_logistic"},
    {"name": "logistic_mixture", "num_mixtures": 3},
)
CONV = {"name": "conv", "channels": [4, 4], "hidden_features": [8]}
RESIDUAL = {"name": "residual", "channels": [4, 4], "num_blocks": 1, "hidden_features": [8]}
MODELS = {
    "conv, vector": (CONV, [6]),
    "conv, map": (CONV, [2, 3, 3]),
    "residual, vector": (RESIDUAL, [6]),
    "residual, map": (RESIDUAL, [2, 2, 3]),
}
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOOD_SETTINGS, ids=lambda settings: settings["name"])
every_model = pytest.mark.parametrize(("layers", "latent_shape"), MODELS.values(), ids=MODELS)


def config_of(layers, latent_shape, likelihood, image_shape=(3, 8, 12), family="planar"):
    return tiny_config(
        family,
        image_shape=image_shape,
        latent_shape=latent_shape,
        likelihood=likelihood,
        encoder=layers | {"context_features": 4},
        decoder=layers,
    )


def images_for(likelihood, image_shape, num_images=5):
    levels = torch.randint(0, 256, (num_images, *image_shape), generator=torch.Generator().manual_seed(0))
    return (levels > 127).float() if LIKELIHOODS[likelihood["name"]].likelihood.of_bits else levels / 255


def test_every_likelihood_is_here():
    assert [settings["name"] for settings in LIKELIHOOD_SETTINGS] == list(LIKELIHOODS)


@every_model
@every_likelihood
def test_no_image_at_all(layers, latent_shape, likelihood):
    """A worker gets an empty share if a batch has fewer images than there are workers."""
    vae = build_vae(config_of(layers, latent_shape, likelihood), seed=0)
    for training in (True, False):
        densities = vae.train(training)(images_for(likelihood, (3, 8, 12), 0), torch.randn(0, vae.latent_dim))
        assert [len(term) for term in densities] == [0, 0, 0, 0, 1]


@every_model
@every_likelihood
@pytest.mark.parametrize("image_shape", [(3, 8, 12), (1, 8, 12)])
def test_latents_are_flat_and_densities_one_per_image(layers, latent_shape, likelihood, image_shape):
    vae = build_vae(config_of(layers, latent_shape, likelihood, image_shape), seed=0)
    assert vae.latent_shape == tuple(latent_shape) and vae.latent_dim == torch.Size(latent_shape).numel()
    x, noise = images_for(likelihood, image_shape), random(0, 2, 5, vae.latent_dim).float()
    densities = vae(x, noise)
    assert densities.z.shape == noise.shape
    for log_density in densities[:3]:
        assert log_density.shape == (2, 5) and log_density.isfinite().all()
    assert vae.likelihood(noise).mean.shape == (2, 5, *image_shape)


@every_model
@every_likelihood
def test_one_image_at_a_time_is_the_same(layers, latent_shape, likelihood):
    """No density of an image depends on the other images of its batch."""
    vae = perturb(build_vae(config_of(layers, latent_shape, likelihood), seed=0).double(), 0.1)
    x, noise = images_for(likelihood, (3, 8, 12)).double(), random(0, 5, vae.latent_dim)
    singles = [vae(x[i : i + 1], noise[i : i + 1])[:4] for i in range(5)]
    stacked = [torch.cat(column) for column in zip(*singles, strict=True)]
    assert_agrees(stacked, lambda: vae(x, noise)[:4], [noise, *vae.parameters()])


@every_model
@every_likelihood
def test_log_densities_stay_in_full_precision(layers, latent_shape, likelihood):
    """Under autocast only the networks run in bfloat16; all that follows from their outputs is in float32."""
    vae, outputs = build_vae(config_of(layers, latent_shape, likelihood), seed=0), []
    for network in (vae.encoder, vae.decoder):
        network.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    x, noise = images_for(likelihood, (3, 8, 12)), random(0, 5, vae.latent_dim).float()
    with torch.autocast("cpu", torch.bfloat16):
        densities = vae(x, noise)
    (loc, scale, context), decoded = outputs
    assert loc.dtype == decoded.dtype == torch.bfloat16
    posterior = TransformedDistribution(DiagonalNormal(loc.float(), scale.float()), vae.posterior_flow(context.float()))
    z, log_posterior = posterior.rsample_and_log_prob(noise)
    log_likelihood = vae.output_to_likelihood(decoded.float()).log_prob(x)
    assert_close(densities[:4], (log_likelihood, log_standard_normal(z), log_posterior, z))
    assert_close(densities.kl_of_levels[0], log_posterior - log_standard_normal(z))


@every_model
@every_likelihood
def test_saved_and_loaded(layers, latent_shape, likelihood, tmp_path):
    vae = perturb(build_vae(config_of(layers, latent_shape, likelihood), seed=0), 0.1).eval()
    vae.save(tmp_path)
    loaded = load(tmp_path)
    x, noise = images_for(likelihood, (3, 8, 12)), random(0, 5, vae.latent_dim).float()
    with torch.no_grad():
        for one, other in zip(vae(x, noise), loaded(x, noise), strict=True):
            assert torch.equal(one, other)


@every_model
@every_likelihood
def test_every_weight_gets_a_gradient(layers, latent_shape, likelihood):
    vae = perturb(build_vae(config_of(layers, latent_shape, likelihood), seed=0), 0.1)
    x, noise = images_for(likelihood, (3, 8, 12)), random(0, 5, vae.latent_dim).float()
    densities = vae(x, noise)
    (densities.log_likelihood + densities.log_prior - densities.log_posterior).sum().backward()
    still = {name for name, weight in vae.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert still == set()


@pytest.mark.parametrize("family", FLOW_SETTINGS)
def test_map_of_another_size(family):
    with pytest.raises(ValueError, match=r"expected a latent map of 2 x 3, .*got 4 x 4"):
        build_vae(config_of(RESIDUAL, [2, 4, 4], LIKELIHOOD_SETTINGS[0], family=family), seed=0)


def shaded(likelihood, num_images=32):
    """Return smooth colour images, each a sigmoid of a random plane."""
    planes = random(0, 3, num_images, 3, 1, 1)
    rows, columns = torch.linspace(-2, 2, 8)[:, None], torch.linspace(-2, 2, 12)
    levels = (255 * torch.sigmoid(planes[0] + planes[1] * rows + planes[2] * columns)).round().float()
    return (levels > 127).float() if LIKELIHOODS[likelihood["name"]].likelihood.of_bits else levels / 255


@pytest.mark.long
@every_likelihood
def test_it_learns(likelihood):
    """Within 300 steps, images cost 12 % less than under a uniform distribution."""
    vae = build_vae(config_of(RESIDUAL | {"channels": [8, 8]}, [8], likelihood, family="none"), seed=0)
    x, draws = shaded(likelihood), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.02)
    levels = 2 if LIKELIHOODS[likelihood["name"]].likelihood.of_bits else 256
    goal = 0.88 * x[0].numel() * math.log(levels)

    def step():
        optimizer.zero_grad()
        loss = -elbo(vae(x, torch.randn(len(x), vae.latent_dim, generator=draws))).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    assert any(step() < goal for _ in range(300))
