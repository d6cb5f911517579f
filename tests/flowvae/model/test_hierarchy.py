"""Hierarchies of latent maps: each level's densities, in one walk and in three, with every family that fits a map."""

import math

import pytest
import torch
from examples import FLOW_SETTINGS, perturb, random
from tolerances import assert_agrees, assert_close

import flowvae
from flowvae.model.flows import FLOWS
from flowvae.model.hierarchy import HierarchicalVAE
from flowvae.model.loading import build_vae, load
from flowvae.model.objectives import elbo, kl, objective
from flowvae.model.settings import VAEConfig

IMAGE = (3, 8, 16)
LEVELS = ((3, 2, 4), (2, 2, 4), (2, 4, 8))
D = 24 + 16 + 64
NO_FLOW = {"flow": "none"}
CONV = {"flow": "conv_real_nvp", "num_transforms": 2, "hidden_channels": 3, "num_blocks": 0, "context": True}
MAF = {"flow": "autoregressive", "num_transforms": 1, "hidden_features": [5], "context": True}
PLANAR = {"flow": "planar", "num_transforms": 3, "amortised": True}
PAIRS = {
    "no flows": (NO_FLOW, NO_FLOW),
    "convolutions": (CONV, CONV | {"context": False}),
    "act norm in the prior": (NO_FLOW, CONV | {"context": False, "normalization": "act_norm"}),
    "vectors of context": (MAF, {"flow": "real_nvp", "num_transforms": 1, "hidden_features": [4], "context": False}),
    "a posterior that cannot be inverted": (PLANAR, NO_FLOW),
}
every_pair = pytest.mark.parametrize(("posterior", "prior"), PAIRS.values(), ids=PAIRS)


def config_of(posterior=NO_FLOW, prior=NO_FLOW, latent_shape=LEVELS, likelihood=None, channels=(4, 5)):
    return VAEConfig(
        image_shape=IMAGE,
        latent_shape=latent_shape,
        posterior=posterior,
        prior=prior,
        likelihood=likelihood or {"name": "logistic_mixture", "num_mixtures": 2},
        encoder={"name": "ladder", "channels": channels, "num_blocks": 1, "context_features": 3},
        decoder={"name": "ladder", "channels": channels[::-1]},
    )


def model(posterior=NO_FLOW, prior=NO_FLOW, std=0.2, **config):
    vae = perturb(build_vae(config_of(posterior, prior, **config), seed=0).double(), std)
    vae(images(), random(1, 4, D))  # act norm takes its first batch
    return vae.eval()


def images(num_images=4):
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_images, *IMAGE), generator=draws).double() / 255


@pytest.mark.parametrize("num_samples", [(), (3,)])
def test_free_nats_are_those_of_each_level(num_samples):
    """A level whose mean KL term is below the limit has no gradient of it, and the others have all of theirs."""
    vae = model(CONV, CONV | {"context": False})
    densities = vae(images(), random(0, *num_samples, 4, D))
    levels = densities.kl_of_levels
    assert levels.shape == (3, *num_samples, 4)
    assert_close(levels.sum(0), kl(densities))
    means = levels.flatten(1).mean(1).sort()
    limit = means.values[1:].mean().item()  # between the second and the third
    small, (large,) = means.indices[:2], means.indices[2:].tolist()

    def averaged(values):
        return values.mean(0) if num_samples else values

    bound = objective(densities, "elbo", 0.5, limit)
    reconstruction = averaged(densities.log_likelihood)
    assert_close(bound, reconstruction - 0.5 * (averaged(levels[large]) + len(small) * limit))
    assert_close(objective(densities, "elbo", 0.5, 0.0), reconstruction - 0.5 * averaged(kl(densities)))


@every_pair
def test_one_walk_is_three(posterior, prior):
    """`forward` computes what posterior, prior and likelihood compute on their own, and the levels add up to D."""
    vae, noise = model(posterior, prior), random(0, 2, 4, D)
    assert vae.latent_dim == D and vae.latent_shape == LEVELS
    densities = vae(images(), noise)
    assert densities.z.shape == noise.shape and all(term.shape == (2, 4) for term in densities[:3])

    def separately():
        z, log_posterior = vae.posterior(images()).rsample_and_log_prob(noise)
        return vae.likelihood(z).log_prob(images()), vae.prior.log_prob(z), log_posterior, z

    assert_agrees(densities[:4], separately, [noise, *vae.parameters()])


@every_pair
def test_one_image_at_a_time_is_the_same(posterior, prior):
    vae, x, noise = model(posterior, prior), images(), random(0, 4, D)
    singles = [vae(x[i : i + 1], noise[i : i + 1])[:4] for i in range(4)]
    stacked = [torch.cat(column) for column in zip(*singles, strict=True)]
    assert_agrees(stacked, lambda: vae(x, noise)[:4], [noise, *vae.parameters()])


def jacobian_ladj(function, point):
    """ln|det| of the Jacobian of a function of one vector, by automatic differentiation."""
    return torch.autograd.functional.jacobian(function, point).slogdet().logabsdet


@every_pair
def test_log_determinants_are_those_of_the_jacobian(posterior, prior):
    vae, x = model(posterior, prior), images(1)
    transform = vae.posterior(x).transform
    noise = random(0, 1, D)
    z, ladj = transform.call_and_ladj(noise)
    assert_close(ladj[0], jacobian_ladj(lambda point: transform.call_and_ladj(point[None])[0][0], noise[0]))
    transform = vae.prior.transform
    _, ladj = transform.call_and_ladj(z)
    assert_close(ladj[0], jacobian_ladj(lambda point: transform.call_and_ladj(point[None])[0][0], z[0]))


@every_pair
def test_both_transforms_are_inverted(posterior, prior):
    vae, noise = model(posterior, prior), random(0, 2, 4, D)
    transforms = {"prior": vae.prior.transform, "posterior": vae.posterior(images()).transform}
    assert transforms["posterior"].has_inverse == (posterior is not PLANAR)
    for transform in transforms.values():
        if transform.has_inverse:
            out, ladj = transform.call_and_ladj(noise)
            back, ladj_back = transform.inv_and_ladj(out)
            assert_close((back, ladj_back), (noise, -ladj), num_operations=10_000)
    if transforms["posterior"].has_inverse:
        z, log_prob = vae.posterior(images()).rsample_and_log_prob(noise)
        assert_close(vae.posterior(images()).log_prob(z), log_prob, num_operations=10_000)


def test_levels_depend_on_those_before_them():
    """z_l depends on the noise of its own and earlier levels; the image below depends on all."""
    vae, noise = model(CONV, CONV | {"context": False}), random(0, 1, D)
    transform = vae.prior.transform
    derivatives = torch.autograd.functional.jacobian(lambda point: transform.inv_and_ladj(point[None])[0][0], noise[0])
    ends = torch.tensor([24, 40, 104])
    for row, (start, end) in enumerate(((0, 24), (24, 40), (40, 104))):
        assert derivatives[start:end, : ends[row]].any() and not derivatives[start:end, ends[row] :].any()
    assert derivatives[40:, :24].any() and derivatives[24:40, :24].any()


def test_at_the_start_the_posterior_is_the_prior():
    """So no level is lost in the first steps: KL is 0, whatever the image."""
    vae = build_vae(config_of(), seed=0).double()
    densities = vae(images(), random(0, 4, D))
    assert_close(densities.log_posterior, densities.log_prior)
    assert_close(densities.z, random(0, 4, D))


@pytest.mark.parametrize("family", FLOWS)
def test_every_family_that_fits_a_map(family):
    settings = {key: value for key, value in FLOW_SETTINGS[family][0].items() if key != "map_shape"}
    vae = model({"flow": family, **settings})
    densities = vae(images(), random(0, 4, D))
    assert all(term.isfinite().all() for term in densities)
    if vae.posterior(images()).transform.has_inverse:
        prior = {key: value for key, value in settings.items() if key not in ("context", "amortised")}
        changes = (
            {"context": False} if "context" in settings else {"amortised": False} if "amortised" in settings else {}
        )
        assert model(prior={"flow": family, **prior, **changes}).prior.sample((5,)).isfinite().all()


@pytest.mark.parametrize("batch", [(0,), (3, 0), (2, 1)])
def test_few_images_or_none(batch):
    vae = model(CONV, CONV | {"context": False})
    densities = vae(images(batch[-1]), random(0, *batch, D))
    assert [term.shape for term in densities] == [batch, batch, batch, (*batch, D), (3, *batch)]


def test_every_weight_gets_a_gradient():
    vae = perturb(build_vae(config_of(CONV, CONV | {"context": False}), seed=0), 0.1)
    elbo(vae(images().float(), random(0, 4, D).float())).sum().backward()
    still = {name for name, weight in vae.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert still == set()


def test_a_context_reaches_the_posterior_from_the_start():
    """Zero weights after it get a gradient in the first step, and let the context matter in the second."""
    vae = build_vae(config_of(CONV), seed=0).double()
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        (-elbo(vae(images(), random(0, 4, D)))).mean().backward()
        optimizer.step()
    assert all(head.last.weight.grad[-3:].any() for head in vae.encoder.heads)


def test_log_densities_stay_in_full_precision():
    vae = build_vae(config_of(CONV, CONV | {"context": False}), seed=0)
    x, noise = images().float(), random(0, 4, D).float()
    with torch.autocast("cpu", torch.bfloat16):
        densities = vae(x, noise)
    assert all(term.dtype == torch.float32 for term in densities)
    exact = vae(x, noise)
    assert (densities.log_likelihood - exact.log_likelihood).abs().max() < 0.02 * exact.log_likelihood.abs().max()


def test_saved_and_loaded(tmp_path):
    vae = perturb(build_vae(config_of(CONV, CONV | {"context": False}), seed=0), 0.1).eval()
    vae.save(tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, HierarchicalVAE) and loaded.config == vae.config
    with torch.no_grad():
        for one, other in zip(
            vae(images().float(), random(0, 4, D).float()),
            loaded(images().float(), random(0, 4, D).float()),
            strict=True,
        ):
            assert torch.equal(one, other)


def test_from_python():
    vae = flowvae.HierarchicalVAE(
        image_shape=(3, 8, 8),
        latent_shape=[(2, 2, 2), (1, 4, 4)],
        posterior=flowvae.ConvRealNVP(num_transforms=1, hidden_channels=4, num_blocks=0),
        prior=flowvae.ConvRealNVP(num_transforms=1, hidden_channels=4, num_blocks=0),
        likelihood=flowvae.LogisticMixture(num_mixtures=2),
        encoder=flowvae.LadderEncoder(channels=(4, 4)),
        decoder=flowvae.LadderDecoder(channels=(4, 4)),
    )
    x = torch.randint(0, 256, (20, 3, 8, 8))
    assert len(flowvae.fit(vae, x[:15], x[15:], epochs=2, batch_size=5)) == 2
    assert vae.log_prob(x, num_samples=5).shape == (20,)
    assert vae.sample(3).shape == vae.reconstruct(x[:3]).shape == (3, 3, 8, 8)
    assert vae.encode(x).shape == (20, 24)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"latent_shape": ((2, 3, 3),)},
            "expected levels of sizes 4 x 8, 2 x 4 for 2 stages of channels, got 3 x 3",
        ),
        ({"latent_shape": ((2, 4, 8), (2, 2, 4))}, "expected levels from the smallest map to the largest, got "),
        ({"decoder": {"name": "ladder", "channels": (4, 5)}}, "those of the encoder in reverse, [5, 4], got [4, 5]"),
        ({"decoder": {"name": "conv"}}, "expected the decoder ladder for a list of latent maps, got conv"),
        ({"encoder": {"name": "residual"}}, "expected the encoder ladder for a list of latent maps, got residual"),
        ({"latent_shape": (2, 4, 8)}, "expected the encoder conv, residual for a latent vector or map, got ladder"),
        ({"prior": PLANAR | {"amortised": False}}, "expected a flow with an inverse in the prior"),
        ({"prior": CONV}, "expected context: false in a prior"),
        ({"image_shape": (3, 6, 16)}, "expected height and width divisible by 4 for 2 stages of channels, got 6 x 16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parts_that_do_not_fit(changes, says):
    config = config_of()
    content = config.model_dump() | changes
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # what it says is compared below
        build_vae(VAEConfig.model_validate(content), seed=0)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [[], [[2, 2]], [[2, 2, 0]], [[2, 2, 2], 3], [2, 3]], ids=str)
def test_shapes_that_are_none(shape):
    with pytest.raises(ValueError, match="latent_shape"):
        config_of(latent_shape=shape)


@pytest.mark.long
def test_it_learns():
    """Flows in posterior and prior lower the cost of smooth images by 12 % from that of a uniform distribution."""
    planes = random(0, 3, 32, 3, 1, 1)
    rows, columns = torch.linspace(-2, 2, 8)[:, None], torch.linspace(-2, 2, 16)
    x = (255 * torch.sigmoid(planes[0] + planes[1] * rows + planes[2] * columns)).round().float() / 255
    vae = build_vae(config_of(CONV, CONV | {"context": False}, channels=(8, 8)), seed=0)
    optimizer, draws = torch.optim.Adam(vae.parameters(), lr=0.01), torch.Generator().manual_seed(0)
    goal = 0.88 * x[0].numel() * math.log(256)

    def step():
        optimizer.zero_grad()
        loss = -elbo(vae(x, torch.randn(len(x), D, generator=draws))).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 100.0)
        optimizer.step()
        return loss.item()

    assert any(step() < goal for _ in range(300))
