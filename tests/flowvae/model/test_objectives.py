"""The bounds on log p(x) against models whose log p(x) is known in closed form."""

from itertools import pairwise

import pytest
import torch
from examples import FLOW_SETTINGS, perturb, random, tiny_vae
from tolerances import assert_agrees, assert_close, size_of
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from flowvae.model.objectives import LogDensities, elbo, importance_weighted_bound, kl
from flowvae.model.transforms import Transform
from flowvae.model.vae import VAE

BATCH, LATENT, PIXELS, NOISE = 4, 2, 3, 0.7


class Affine(Transform):
    """z -> loc + L z with one loc per image, for a lower-triangular L with a positive diagonal."""

    has_inverse = False

    def __init__(self, loc, factor):
        self.loc, self.factor = loc, factor

    def _call_and_ladj(self, z):
        ladj = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self.loc + z @ self.factor.mT, ladj.expand(z.shape[:-1])


class StandardNormalEncoder(nn.Module):
    """Base N(0, I), and the image itself as context."""

    def forward(self, x):
        loc = torch.zeros(len(x), LATENT, dtype=x.dtype)
        return loc, torch.ones_like(loc), x.flatten(1)


class ExactPosterior(nn.Module):
    """The flow from N(0, I) to p(z|x) of the linear model, widened by a factor."""

    def __init__(self, weight, widen):
        super().__init__()
        precision = torch.eye(LATENT).double() + weight.mT @ weight / NOISE**2
        self.covariance = precision.inverse()
        self.weight, self.factor = weight, widen * torch.linalg.cholesky(self.covariance)

    def forward(self, context):
        return Affine(context @ self.weight @ self.covariance / NOISE**2, self.factor)


class LinearGaussianVAE(VAE):
    """z ~ N(0, I), x|z ~ N(W z, NOISE^2 I): everything is normal, and the posterior has a full covariance."""

    def __init__(self, weight, widen=1.0):
        decoder = nn.Linear(LATENT, PIXELS, bias=False).double()
        decoder.weight = nn.Parameter(weight)
        parts = {"encoder": StandardNormalEncoder(), "posterior": ExactPosterior(weight, widen), "decoder": decoder}
        super().__init__((1, 1, PIXELS), (LATENT,), **parts)
        self.output_to_likelihood = self.normal

    @staticmethod
    def normal(mean):
        return Independent(Normal(mean[..., None, None, :], NOISE), 3)  # images of 1 x 1 x PIXELS

    def log_evidence(self, x):
        covariance = self.decoder.weight @ self.decoder.weight.mT + NOISE**2 * torch.eye(PIXELS).double()
        return MultivariateNormal(torch.zeros(PIXELS).double(), covariance).log_prob(x.flatten(1))


@pytest.fixture
def weight():
    return 1.5 * random(0, PIXELS, LATENT)


@pytest.fixture
def x():
    return 2 * random(1, BATCH, 1, 1, PIXELS)


def assert_log_evidence(bound, weight, x, densities):
    """The size is that of log p(x), and of the three terms of the bound at the most extreme draw, which cancel."""
    (size,) = size_of(lambda: LinearGaussianVAE(weight).log_evidence(x), [weight, x])
    terms = sum(term.abs().amax(0) for term in densities[:3])
    expected = LinearGaussianVAE(weight).log_evidence(x).expand(bound.shape)
    assert_close(bound, expected, size=size + terms.detach())


def test_elbo_is_log_evidence_on_every_draw(weight, x):
    densities = LinearGaussianVAE(weight)(x, random(2, 20, BATCH, LATENT))
    assert_log_evidence(elbo(densities), weight, x, densities)


def test_importance_weighted_bound_of_the_exact_posterior(weight, x):
    for num_samples in (1, 7):
        densities = LinearGaussianVAE(weight)(x, random(3, num_samples, BATCH, LATENT))
        assert_log_evidence(importance_weighted_bound(densities), weight, x, densities)


def mean_bound(vae, x, num_samples, repeats=2000):
    """Return the mean and the standard error of the bound on one image over many repeats."""
    with torch.no_grad():
        noise = random(4 + num_samples, num_samples, repeats, LATENT)
        bounds = importance_weighted_bound(vae(x.expand(repeats, *x.shape[1:]), noise))
    return bounds.mean(), bounds.std() / repeats**0.5


def test_importance_weighted_bound_rises_to_log_evidence(weight, x):
    """One sample: within 5 standard errors of the ELBO. 100 samples: within 0.01 nats of log p(x)."""
    vae, one = LinearGaussianVAE(weight, widen=1.6), x[:1]
    log_evidence = vae.log_evidence(one)
    means, errors = zip(*(mean_bound(vae, one, num_samples) for num_samples in (1, 3, 10, 100)), strict=True)
    gap = LATENT * (0.5 * (1.6**2 - 1) - torch.tensor(1.6).log())  # KL(q||p) of a posterior widened by 1.6
    assert (means[0] - (log_evidence - gap)).abs() < 5 * errors[0]
    for low, high in pairwise(means):
        assert low + 0.01 < high
    assert (means[-1] - log_evidence).abs() < 0.01


def test_importance_weights_do_not_underflow(weight, x):
    densities = LinearGaussianVAE(weight)(x, random(5, 3, BATCH, LATENT))
    shifted = densities._replace(log_likelihood=densities.log_likelihood - 1e5)
    assert_close(importance_weighted_bound(shifted), importance_weighted_bound(densities) - 1e5)


class Shift(nn.Module):
    """A flow that moves every sample by a constant."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, context):
        return Affine(self.by, torch.eye(LATENT).double())


def test_kl_takes_the_prior_at_the_end_of_the_flow(weight, x):
    """The mean KL of a shifted normal is known, within 5 standard errors; with p(z0) in place of p(zK) it is 0."""
    by = torch.tensor([1.0, -2.0]).double()
    vae = LinearGaussianVAE(weight)
    vae.posterior_flow = Shift(by)
    estimates = kl(vae(x, random(6, 5000, BATCH, LATENT)))
    expected = kl_divergence(Normal(by, 1.0), Normal(torch.zeros(2), 1.0)).sum()
    error = estimates.std() / estimates.numel() ** 0.5
    assert (estimates.mean() - expected).abs() < 5 * error < 0.2


@pytest.mark.parametrize("family", FLOW_SETTINGS)
def test_densities_are_those_of_the_flow(family):
    vae = tiny_vae(family)
    perturb(vae.posterior_flow)
    x, noise = random(7, 3, 1, 4, 4).sign().relu(), random(8, 5, 3, 2)
    loc, scale, context = vae.encoder(x)
    z0 = loc + scale * noise
    z, ladj = vae.posterior_flow(context).call_and_ladj(z0)
    log_prior = Normal(0, torch.ones(2).double()).log_prob(z).sum(-1)
    log_posterior = Normal(loc, scale).log_prob(z0).sum(-1) - ladj
    assert_agrees((log_prior, log_posterior, z), lambda: vae(x, noise)[1:4], [noise, *vae.parameters()])
    assert torch.equal(z, z0) == (family == "none")


def densities_of(*values):
    likelihood, prior, posterior = (torch.full((4, 3), value) for value in values)
    return LogDensities(likelihood, prior, posterior, torch.zeros(4, 3, 2), (posterior - prior)[None])


def test_kl_weight_scales_only_the_kl_term():
    densities = densities_of(-50.0, -3.0, -1.0)  # KL 2
    assert torch.equal(kl(densities), torch.full((4, 3), 2.0))
    assert torch.equal(elbo(densities), torch.full((4, 3), -52.0))
    assert torch.equal(elbo(densities, 0.25), torch.full((4, 3), -50.5))
    assert torch.equal(elbo(densities, 0.0), torch.full((4, 3), -50.0))


def test_shapes():
    vae, x = tiny_vae(), random(9, 3, 1, 4, 4).sign().relu()
    assert elbo(vae(x, random(10, 3, 2))).shape == (3,)
    assert elbo(vae(x, random(10, 6, 3, 2))).shape == kl(vae(x, random(10, 6, 3, 2))).shape == (6, 3)
    assert importance_weighted_bound(vae(x, random(10, 6, 3, 2))).shape == (3,)
