"""The contract of every entry of FLOWS: a bijection with the right log-determinant, sample by sample."""

import copy
from math import prod

import pytest
import torch
from examples import CONTEXT_FEATURES, FLOW_SETTINGS, make_flow, perturb, random
from tolerances import assert_agrees, assert_close, assert_ladj, assert_round_trip, jacobian_of, tolerance

from flowvae.model.batch_norm import PopulationStatistics
from flowvae.model.distributions import DiagonalNormal, TransformedDistribution
from flowvae.model.flows import FLOWS
from flowvae.model.networks import MaskedLinear

CASES = [(family, settings) for family, examples in FLOW_SETTINGS.items() for settings in examples]
BATCH, NUM_POINTS = 3, 100

every_flow = pytest.mark.parametrize(("family", "settings"), CASES)
SHAPES = [(2,), (5,), (1, 4, 4)]
MORE_SHAPES = [pytest.param(shape, marks=pytest.mark.long) for shape in [(8,), (2, 2, 4), (3, 1, 3)]]
every_shape = pytest.mark.parametrize("latent_shape", SHAPES + MORE_SHAPES, ids=str)


def context_for(flow, batch=BATCH):
    """Return random context of the size that the flow takes, different for each image."""
    return random(7, batch, flow.context_features)


def perturbed(family, settings, latent_shape):
    return perturb(make_flow(family, settings, latent_shape)).eval()


SHARED = {}


def shared(family, settings, latent_shape):
    """Return the same perturbed flow to all tests that leave it as it is, because building one takes longest."""
    key = family, repr(settings), latent_shape
    if key not in SHARED:
        SHARED[key] = perturbed(family, settings, latent_shape)
    return SHARED[key]


def test_every_family_has_examples():
    assert set(FLOW_SETTINGS) == set(FLOWS)
    assert all(FLOW_SETTINGS.values())


@every_flow
def test_context_wanted_is_none_or_what_the_encoder_can_give(family, settings):
    assert make_flow(family, settings, (5,)).context_features in (0, CONTEXT_FEATURES)


@every_flow
@every_shape
def test_ladj_is_that_of_autograd(family, settings, latent_shape):
    flow = shared(family, settings, latent_shape)
    context, z = context_for(flow), random(0, BATCH, prod(latent_shape))
    transform = flow(context)
    _, jacobian = jacobian_of(transform, z)
    assert_ladj(transform.call_and_ladj(z)[1], jacobian)


@every_flow
@every_shape
@pytest.mark.parametrize("sample_shape", [(), (3,), (2, 3)])
def test_samples_are_mapped_one_by_one(family, settings, latent_shape, sample_shape):
    flow = shared(family, settings, latent_shape)
    context, z = context_for(flow), random(1, *sample_shape, BATCH, prod(latent_shape))
    out, ladj = flow(context).call_and_ladj(z)
    assert out.shape == z.shape and ladj.shape == (*sample_shape, BATCH)
    singles = [flow(context).call_and_ladj(sample) for sample in z.reshape(-1, *z.shape[-2:])]
    stacked = [torch.stack(results).view(expected.shape) for results, expected in zip(zip(*singles), (out, ladj))]
    assert_agrees(stacked, lambda: flow(context).call_and_ladj(z), [z, context, *flow.parameters()])


@every_flow
@every_shape
def test_images_are_mapped_one_by_one(family, settings, latent_shape):
    flow = shared(family, settings, latent_shape)
    context, z = context_for(flow), random(2, BATCH, prod(latent_shape))
    singles = [flow(context[i : i + 1]).call_and_ladj(z[i : i + 1]) for i in range(BATCH)]
    inputs = [z, context, *flow.parameters()]
    assert_agrees([torch.cat(results) for results in zip(*singles)], lambda: flow(context).call_and_ladj(z), inputs)


@every_flow
@every_shape
def test_steps_one_after_another_are_the_whole(family, settings, latent_shape):
    flow, count = shared(family, settings, latent_shape), settings["num_transforms"]
    context, z = context_for(flow), random(2, 2, BATCH, prod(latent_shape))
    steps = flow(context).steps(count)
    assert len(steps) == count
    out, ladjs = z, []
    for step in steps:
        out, ladj = step.call_and_ladj(out)
        ladjs.append(ladj)
    total = torch.stack(ladjs).sum(0) if ladjs else torch.zeros_like(z[..., 0])
    assert_agrees((out, total), lambda: flow(context).call_and_ladj(z), [z, context, *flow.parameters()])


@every_flow
@pytest.mark.parametrize("sample_shape", [(), (2,)])
@pytest.mark.parametrize("training", [True, False])
def test_no_image_at_all(family, settings, sample_shape, training):
    """A worker gets an empty share if a batch has fewer images than there are workers."""
    flow = perturbed(family, settings, (4,)).train(training)
    z = torch.zeros(*sample_shape, 0, 4).double()
    out, ladj = flow(context_for(flow, batch=0)).call_and_ladj(z)
    assert out.shape == z.shape and ladj.shape == z.shape[:-1]


@every_flow
@every_shape
def test_round_trip_or_a_clear_refusal(family, settings, latent_shape):
    flow = shared(family, settings, latent_shape)
    transform = flow(context_for(flow))
    z = random(3, 2, BATCH, prod(latent_shape))
    if transform.has_inverse:
        assert_round_trip(transform, z)
    else:
        with pytest.raises(NotImplementedError, match=r"no closed-form inverse.*rsample_and_log_prob"):
            transform.inv(z)


@every_flow
@every_shape
def test_starts_as_the_identity(family, settings, latent_shape):
    """All shifts and log-scales are 0, up to the rounding of terms of size 1 that cancel (m(0) = 0 of a planar u)."""
    flow = make_flow(family, settings, latent_shape).eval()
    z = 3 * random(4, BATCH, prod(latent_shape))
    out, ladj = flow(10 * context_for(flow)).call_and_ladj(z)
    assert_close(out, z, size=z.abs() + 1)
    assert_close(ladj, torch.zeros_like(ladj), size=1.0)


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
    flow = shared(family, settings, latent_shape)
    z = random(5, BATCH, prod(latent_shape))
    change = (flow(context_for(flow)).call_and_ladj(z)[0] - z).abs()
    assert (change > 1e-6).all() if settings["num_transforms"] else (change == 0).all()


def shape_for(settings):
    """Return the smallest latent shape for which every weight of the flow has an effect."""
    return (1, 4, 4) if "map_shape" in settings else (4,)


def backward_of_random_loss(flow, latent_shape):
    """With enough points to have some in every bin of a spline."""
    z = random(6, NUM_POINTS, BATCH, prod(latent_shape)).requires_grad_()
    out, ladj = flow(context_for(flow)).call_and_ladj(z)
    ((out * random(8, *out.shape)).sum() + (ladj * random(9, *ladj.shape)).sum()).backward()


@every_flow
@pytest.mark.parametrize("training", [True, False])
def test_gradients_reach_every_parameter(family, settings, training):
    """Except those of absent connections. In training, batch norm cancels the shifts and the magnitudes (original0)
    directly before it.
    """
    flow = perturbed(family, settings, shape_for(settings)).train(training)
    backward_of_random_loss(flow, shape_for(settings))
    cancelling = training and any(isinstance(child, PopulationStatistics) for child in flow.modules())
    absent = {
        f"{name}.weight": layer.mask == 0 for name, layer in flow.named_modules() if isinstance(layer, MaskedLinear)
    }
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        reached = parameter.grad.abs() > tolerance(1)
        if name in absent:
            assert not (reached & absent[name]).any(), name
            reached = reached | absent[name]
        assert reached.all() or (cancelling and (reached.any() or name.endswith("original0"))), name


@every_flow
def test_context_is_used_or_not_asked_for(family, settings):
    flow = shared(family, settings, (4,))
    z, context = random(10, BATCH, 4), context_for(flow)
    change = flow(context).call_and_ladj(z)[0] - flow(context + 1).call_and_ladj(z)[0]
    assert (change.abs().sum(-1) > 1e-6).all() if flow.context_features else (change == 0).all()


@every_flow
@every_shape
def test_precisions_agree(family, settings, latent_shape):
    flow = shared(family, settings, latent_shape)
    z, context = random(11, BATCH, prod(latent_shape)), context_for(flow)
    single = copy.deepcopy(flow).float()(context.float()).call_and_ladj(z.float())
    assert all(result.dtype == torch.float32 for result in single)
    inputs = [z, context, *flow.parameters()]
    assert_agrees(single, lambda: flow(context).call_and_ladj(z), inputs, dtype=torch.float32)


@every_flow
def test_each_mode_gives_the_same_again_and_leaves_the_other_alone(family, settings):
    """Only flows with population statistics differ between training and evaluation."""
    flow = perturbed(family, settings, (5,))
    z, context = random(12, BATCH, 5), context_for(flow)
    flow.train()(context).call_and_ladj(z)  # the first batch initializes act norm
    results = {mode: flow.train(mode)(context).call_and_ladj(z) for mode in (True, False)}
    for mode in (True, False, True, False):
        again = flow.train(mode)(context).call_and_ladj(z)
        assert all(torch.equal(value, expected) for value, expected in zip(again, results[mode], strict=True))
    alike = all(torch.equal(*pair) for pair in zip(*results.values(), strict=True))
    assert alike == (not any(isinstance(child, PopulationStatistics) for child in flow.modules()))


def posterior_in_the_plane(flow):
    base = DiagonalNormal(torch.tensor([[0.3, -0.5]]).double(), torch.tensor([[0.8, 1.3]]).double())
    return TransformedDistribution(base, flow(context_for(flow, batch=1)))


def grid(low, high, steps):
    """Return the corners of the cells of a rectangle, shape (steps, steps, 2)."""
    axes = [torch.linspace(start, stop, steps, dtype=torch.float64) for start, stop in zip(low, high, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def signed_areas(corners):
    """Return the areas of the cells of a mapped grid by the shoelace formula, independently of ladj."""
    a, b, c, d = corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:]
    first, second = c - a, d - b
    return 0.5 * (first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0])


@pytest.mark.long
@every_flow
def test_density_of_the_samples_integrates_to_one(family, settings):
    """Sum q_K(z_K) over the areas of the mapped cells of a grid, which needs no inverse.

    The tolerance is for the grid: the midpoint rule and straight edges are off by O(width^2), 0.03^2 here.
    """
    posterior = posterior_in_the_plane(shared(family, settings, (2,)))
    noise = grid((-6, -6), (6, 6), 401)
    corners = posterior.rsample_and_log_prob(noise.reshape(-1, 1, 2))[0].reshape(noise.shape)
    areas = signed_areas(corners)
    assert (areas > 0).all()  # nothing is folded over
    middles = 0.5 * (noise[:-1, :-1] + noise[1:, 1:])
    log_prob = posterior.rsample_and_log_prob(middles.reshape(-1, 1, 2))[1].reshape(areas.shape)
    assert (log_prob.exp() * areas).sum().item() == pytest.approx(1, abs=1e-3)


@every_flow
def test_log_prob_integrates_to_one(family, settings):
    """The tolerance is for the grid: outside it lies less than 1e-5, and its cells are smaller than the density."""
    posterior = posterior_in_the_plane(shared(family, settings, (2,)))
    if not posterior.transform.has_inverse:
        with pytest.raises(NotImplementedError):
            posterior.log_prob(torch.zeros(1, 2).double())
        return
    mapped = posterior.rsample_and_log_prob(grid((-5, -5), (5, 5), 60).reshape(-1, 1, 2))[0].reshape(-1, 2)
    low, high = mapped.amin(0), mapped.amax(0)
    points = grid(low.tolist(), high.tolist(), 201)
    cell = ((high - low) / 200).prod()
    assert (posterior.log_prob(points.reshape(-1, 1, 2)).exp().sum() * cell).item() == pytest.approx(1, abs=1e-3)


@every_flow
def test_draw_and_score_agree_with_log_prob(family, settings):
    flow = shared(family, settings, (2,))
    z, log_prob = posterior_in_the_plane(flow).rsample_and_log_prob(random(13, 50, 1, 2))
    if posterior_in_the_plane(flow).transform.has_inverse:
        z = z.detach()
        assert_agrees(log_prob, lambda: posterior_in_the_plane(flow).log_prob(z), [z, *flow.parameters()])


@every_flow
def test_the_location_is_pushed_like_a_draw_without_noise(family, settings):
    flow, zero = shared(family, settings, (2,)), torch.zeros(1, 2).double()
    drawn = posterior_in_the_plane(flow).rsample_and_log_prob(zero)[0]
    assert_agrees(drawn, lambda: posterior_in_the_plane(flow).push_loc(), [*flow.parameters(), zero])


@every_flow
def test_autocast_of_the_caller_does_not_reach_a_transform(family, settings):
    """A transform is created in full precision, and used later, in a context of autocast that may be on by then."""
    flow = shared(family, settings, (4,))
    transform = copy.deepcopy(flow).float()(context_for(flow).float())
    z = random(14, BATCH, 4).float()
    expected = transform.call_and_ladj(z)
    with torch.autocast("cpu", torch.bfloat16):
        found = transform.call_and_ladj(z)
        back = transform.inv_and_ladj(z) if transform.has_inverse else ()
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    for value, wanted in zip(back, transform.inv_and_ladj(z) if transform.has_inverse else (), strict=True):
        assert torch.equal(value, wanted)


@every_flow
@every_shape
def test_the_inverse_has_the_opposite_ladj(family, settings, latent_shape):
    flow = shared(family, settings, latent_shape)
    transform = flow(context_for(flow))
    if not transform.has_inverse:
        return
    z = random(15, BATCH, prod(latent_shape))
    back, ladj = transform.inv_and_ladj(z)
    inputs = [back, *flow.parameters()]
    assert_agrees(-ladj, lambda: flow(context_for(flow)).call_and_ladj(back)[1], inputs)
