"""What every entry of FLOWS must be: a bijection with the right log-determinant, sample by sample."""

from math import prod

import pytest
import torch
from examples import CONTEXT_FEATURES, FLOW_SETTINGS, make_flow, perturb, random
from torch.autograd.functional import jacobian

from flowvae.distributions import DiagonalNormal, TransformedDistribution
from flowvae.flows import FLOWS
from flowvae.statistics import PopulationStatistics

CASES = [(family, settings) for family, examples in FLOW_SETTINGS.items() for settings in examples]
BATCH = 3

every_flow = pytest.mark.parametrize(("family", "settings"), CASES)
SHAPES = [(2,), (5,), (8,), (1, 4, 4), (2, 2, 4), (3, 1, 3)]
every_shape = pytest.mark.parametrize("latent_shape", SHAPES, ids=str)


def context_for(flow, batch=BATCH):
    """As much context as the flow wants, different for each image."""
    return random(7, batch, flow.context_features)


def perturbed(family, settings, latent_shape):
    return perturb(make_flow(family, settings, latent_shape)).eval()


def test_every_family_has_examples():
    assert set(FLOW_SETTINGS) == set(FLOWS)
    assert all(FLOW_SETTINGS.values())


@every_flow
def test_context_wanted_is_none_or_what_the_encoder_can_give(family, settings):
    assert make_flow(family, settings, (5,)).context_features in (0, CONTEXT_FEATURES)


@every_flow
@every_shape
def test_ladj_is_that_of_autograd(family, settings, latent_shape):
    flow = perturbed(family, settings, latent_shape)
    context, z = context_for(flow), random(0, BATCH, prod(latent_shape))
    ladj = flow(context).call_and_ladj(z)[1]
    for i in range(BATCH):
        transform = flow(context[i : i + 1])
        matrix = jacobian(lambda point, transform=transform: transform.call_and_ladj(point[None])[0][0], z[i])
        sign, expected = torch.linalg.slogdet(matrix)
        assert sign == 1
        torch.testing.assert_close(ladj[i], expected, rtol=1e-9, atol=1e-10)


@every_flow
@every_shape
@pytest.mark.parametrize("sample_shape", [(), (3,), (2, 3)])
def test_samples_are_mapped_one_by_one(family, settings, latent_shape, sample_shape):
    transform = perturbed(family, settings, latent_shape)(context_for(make_flow(family, settings, latent_shape)))
    z = random(1, *sample_shape, BATCH, prod(latent_shape))
    out, ladj = transform.call_and_ladj(z)
    assert out.shape == z.shape and ladj.shape == (*sample_shape, BATCH)
    singles = [transform.call_and_ladj(sample) for sample in z.reshape(-1, *z.shape[-2:])]
    torch.testing.assert_close(out.reshape(-1, *z.shape[-2:]), torch.stack([single[0] for single in singles]))
    torch.testing.assert_close(ladj.reshape(-1, BATCH), torch.stack([single[1] for single in singles]))


@every_flow
@every_shape
def test_images_are_mapped_one_by_one(family, settings, latent_shape):
    flow = perturbed(family, settings, latent_shape)
    context, z = context_for(flow), random(2, BATCH, prod(latent_shape))
    together = flow(context).call_and_ladj(z)
    for i in range(BATCH):
        alone = flow(context[i : i + 1]).call_and_ladj(z[i : i + 1])
        torch.testing.assert_close(alone[0][0], together[0][i])
        torch.testing.assert_close(alone[1][0], together[1][i])


@every_flow
@pytest.mark.parametrize("sample_shape", [(), (2,)])
@pytest.mark.parametrize("training", [True, False])
def test_no_image_at_all(family, settings, sample_shape, training):
    """As a worker has in a batch of fewer images than workers."""
    flow = perturbed(family, settings, (4,)).train(training)
    z = torch.zeros(*sample_shape, 0, 4).double()
    out, ladj = flow(context_for(flow, batch=0)).call_and_ladj(z)
    assert out.shape == z.shape and ladj.shape == z.shape[:-1]


@every_flow
@every_shape
def test_round_trip_or_a_clear_refusal(family, settings, latent_shape):
    flow = perturbed(family, settings, latent_shape)
    transform = flow(context_for(flow))
    z = random(3, 2, BATCH, prod(latent_shape))
    out, _ = transform.call_and_ladj(z)
    if transform.has_inverse:
        torch.testing.assert_close(transform.inv(out), z, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(transform.call_and_ladj(transform.inv(z))[0], z, rtol=1e-9, atol=1e-9)
    else:
        with pytest.raises(NotImplementedError, match=r"no closed-form inverse.*rsample_and_log_prob"):
            transform.inv(out)


@every_flow
@every_shape
def test_starts_as_the_identity(family, settings, latent_shape):
    flow = make_flow(family, settings, latent_shape).eval()
    z = 3 * random(4, BATCH, prod(latent_shape))
    out, ladj = flow(10 * context_for(flow)).call_and_ladj(z)
    torch.testing.assert_close(out, z, rtol=0, atol=1e-12)
    torch.testing.assert_close(ladj, torch.zeros_like(ladj), rtol=0, atol=1e-12)


@every_flow
@pytest.mark.parametrize("training", [True, False])
def test_training_can_leave_the_identity(family, settings, training):
    flow = make_flow(family, settings, shape_for(settings)).train(training)
    backward_of_random_loss(flow, shape_for(settings))
    moved = [parameter for parameter in flow.parameters() if parameter.grad.any()]
    assert bool(moved) == (settings["num_transforms"] > 0)


@every_flow
@every_shape
def test_every_dimension_is_transformed(family, settings, latent_shape):
    flow = perturbed(family, settings, latent_shape)
    z = random(5, BATCH, prod(latent_shape))
    change = (flow(context_for(flow)).call_and_ladj(z)[0] - z).abs()
    assert (change > 1e-6).all() if settings["num_transforms"] else (change == 0).all()


def shape_for(settings):
    """Large enough for all of a flow's weights to be of use: a squeezed map of 2 x 2, each with 8 neighbours."""
    return (1, 4, 4) if "map_shape" in settings else (4,)


def backward_of_random_loss(flow, latent_shape):
    out, ladj = flow(context_for(flow)).call_and_ladj(random(6, 2, BATCH, prod(latent_shape)).requires_grad_())
    ((out * random(8, *out.shape)).sum() + (ladj * random(9, *ladj.shape)).sum()).backward()


@every_flow
@pytest.mark.parametrize("training", [True, False])
def test_gradients_reach_every_parameter(family, settings, training):
    flow = perturbed(family, settings, shape_for(settings)).train(training)
    backward_of_random_loss(flow, shape_for(settings))
    undone = training and settings.get("net_batch_norm")  # it undoes magnitudes, those of the batch too
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).all() or (undone and name.endswith("original0")), name


@every_flow
def test_context_is_used_or_not_asked_for(family, settings):
    flow = perturbed(family, settings, (4,))
    z, context = random(10, BATCH, 4), context_for(flow)
    change = flow(context).call_and_ladj(z)[0] - flow(context + 1).call_and_ladj(z)[0]
    assert (change.abs().sum(-1) > 1e-6).all() if flow.context_features else (change == 0).all()


@every_flow
@every_shape
def test_precisions_agree(family, settings, latent_shape):
    flow = perturbed(family, settings, latent_shape)
    z, context = random(11, BATCH, prod(latent_shape)), context_for(flow)
    exact = flow(context).call_and_ladj(z)
    single = flow.float()(context.float()).call_and_ladj(z.float())
    for low, high in zip(single, exact, strict=True):
        assert low.dtype == torch.float32 and high.dtype == torch.float64
        torch.testing.assert_close(low.double(), high, rtol=1e-4, atol=1e-4)


@every_flow
def test_each_mode_gives_the_same_again_and_leaves_the_other_alone(family, settings):
    """A flow with statistics uses the batch in training; no other does."""
    flow = perturbed(family, settings, (5,))
    z, context = random(12, BATCH, 5), context_for(flow)
    flow.train()(context).call_and_ladj(z)  # act norm takes its start from the first batch of all
    results = {mode: flow.train(mode)(context).call_and_ladj(z) for mode in (True, False)}
    for mode in (True, False, True, False):
        again = flow.train(mode)(context).call_and_ladj(z)
        assert all(torch.equal(value, expected) for value, expected in zip(again, results[mode], strict=True))
    alike = all(torch.equal(*pair) for pair in zip(*results.values(), strict=True))
    assert alike == (not any(isinstance(child, PopulationStatistics) for child in flow.modules()))


def posterior_in_the_plane(family, settings):
    flow = perturbed(family, settings, (2,))
    base = DiagonalNormal(torch.tensor([[0.3, -0.5]]).double(), torch.tensor([[0.8, 1.3]]).double())
    return TransformedDistribution(base, flow(context_for(flow, batch=1)))


def grid(low, high, steps):
    """(steps, steps, 2): corners of a rectangle's cells."""
    axes = [torch.linspace(start, stop, steps, dtype=torch.float64) for start, stop in zip(low, high, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def signed_areas(corners):
    """Shoelace areas of the quadrilaterals of a mapped grid, which know nothing of ladj."""
    a, b, c, d = corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:]
    first, second = c - a, d - b
    return 0.5 * (first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0])


@every_flow
def test_density_of_the_samples_integrates_to_one(family, settings):
    """Sum q_K(z_K) over the areas that the cells of a grid are mapped to; no inverse is needed."""
    posterior = posterior_in_the_plane(family, settings)
    noise = grid((-6, -6), (6, 6), 301)
    corners = posterior.rsample_and_log_prob(noise.reshape(-1, 1, 2))[0].reshape(noise.shape)
    areas = signed_areas(corners)
    assert (areas > 0).all()  # nothing is folded over
    middles = 0.5 * (noise[:-1, :-1] + noise[1:, 1:])
    log_prob = posterior.rsample_and_log_prob(middles.reshape(-1, 1, 2))[1].reshape(areas.shape)
    assert (log_prob.exp() * areas).sum().item() == pytest.approx(1, abs=1e-3)


@every_flow
def test_log_prob_integrates_to_one(family, settings):
    posterior = posterior_in_the_plane(family, settings)
    if not posterior.transform.has_inverse:
        with pytest.raises(NotImplementedError):
            posterior.log_prob(torch.zeros(1, 2).double())
        return
    mapped = posterior.rsample_and_log_prob(grid((-5, -5), (5, 5), 60).reshape(-1, 1, 2))[0].reshape(-1, 2)
    low, high = mapped.amin(0), mapped.amax(0)
    points = grid(low.tolist(), high.tolist(), 501)
    cell = ((high - low) / 500).prod()
    assert (posterior.log_prob(points.reshape(-1, 1, 2)).exp().sum() * cell).item() == pytest.approx(1, abs=2e-3)


@every_flow
def test_draw_and_score_agree_with_log_prob(family, settings):
    posterior = posterior_in_the_plane(family, settings)
    z, log_prob = posterior.rsample_and_log_prob(random(13, 50, 1, 2))
    if posterior.transform.has_inverse:
        torch.testing.assert_close(posterior.log_prob(z), log_prob, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(posterior.push_loc(), posterior.rsample_and_log_prob(torch.zeros(1, 2).double())[0])
