"""Flows of zuko as posterior and prior: they train, have zuko's own densities, and are saved and loaded."""

import tempfile

import pytest
import torch
from tolerances import assert_agrees, assert_close, assert_round_trip, size_of
from zuko.distributions import DiagNormal, NormalizingFlow
from zuko.flows import MAF, NICE, NSF

import flowvae
from flowvae.errors import InputError

D, CONTEXT = 3, 5
NETS = {"transforms": 2, "hidden_features": (8,)}
PARTS = {
    "encoder": flowvae.ConvEncoder(channels=(3,), hidden_features=(8,)),
    "decoder": flowvae.ConvDecoder(channels=(3,), hidden_features=(8,)),
}
torch.manual_seed(0)
IMAGES = torch.rand(60, 1, 4, 4) > torch.linspace(0.1, 0.9, 16).view(1, 4, 4)


def own_modules(prior):
    posterior = flowvae.ZukoFlow(NSF(D, CONTEXT, bins=4, **NETS), context_features=CONTEXT)
    return {"posterior": posterior, "prior": flowvae.ZukoFlow(prior(D, **NETS))}


def trained(prior):
    vae = flowvae.VAE((1, 4, 4), (D,), **own_modules(prior), **PARTS).double()
    before = {name: weight.detach().clone() for name, weight in vae.named_parameters()}
    records = flowvae.fit(vae, IMAGES[:40], IMAGES[40:], epochs=4, batch_size=8)
    assert records[-1].train_negative_elbo < records[0].train_negative_elbo
    assert not [name for name, weight in vae.named_parameters() if torch.equal(weight, before[name])]
    return vae


def check_prior(vae):
    """Zuko's flow is a density as it is, with its standard-normal base."""
    z, inputs = torch.randn(7, D, dtype=torch.float64), [*vae.prior_flow.parameters()]
    assert_agrees(vae.prior_flow.flow().log_prob(z), lambda: vae.prior.log_prob(z), [z, *inputs])
    assert_round_trip(vae.prior.transform, z)
    assert vae.sample(4).shape == (4, 1, 4, 4)


def check_posterior(vae):
    """Zuko's transform maps z0 to zK, and the base is the encoder's."""
    x, inputs = vae.images(IMAGES[:6]), [*vae.parameters()]
    z, log_prob = vae.posterior(x).rsample_and_log_prob(torch.randn(5, 6, D, dtype=torch.float64))
    loc, scale, context = vae.encoder(x)
    assert context.shape == (6, CONTEXT)
    oracle = NormalizingFlow(vae.posterior_flow.flow(context).transform.inv, DiagNormal(loc, scale))
    z = z.detach()
    size = size_of(lambda: vae.posterior(x).log_prob(z), [z, *inputs])
    assert_close(log_prob, oracle.log_prob(z), size=size)
    assert_close(vae.posterior(x).log_prob(z), oracle.log_prob(z), size=size)


def log_probs(vae):
    torch.manual_seed(1)
    return vae.log_prob(IMAGES, num_samples=3)


def check_file(vae, prior):
    with tempfile.TemporaryDirectory() as folder:
        vae.save(folder)
        loaded = flowvae.load(folder, **own_modules(prior))
        assert torch.equal(log_probs(loaded), log_probs(vae)) and log_probs(vae).dtype == torch.float64
        with pytest.raises(InputError, match="posterior, prior"):
            flowvae.load(folder)


for prior in (MAF, NICE, NSF):
    vae = trained(prior)
    check_prior(vae)
    check_posterior(vae)
    check_file(vae, prior)
print("agrees")
