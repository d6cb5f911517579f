"""Likelihoods of bits and of 8-bit values: they sum to 1 and are finite for every output of a decoder."""

import math

import pytest
import torch
from examples import random
from tolerances import FLOOR, assert_agrees, assert_close, assert_gradients, size_of

from flowvae.model.likelihoods import LIKELIHOODS, Bernoulli, DiscretizedLogistic, LogisticMixture, build_output

LEVELS = torch.arange(256, dtype=torch.float64) / 255
SETTINGS = {
    "bernoulli": ({},),
    "discretized_logistic": ({},),
    "logistic_mixture": ({"num_mixtures": 1}, {"num_mixtures": 4}),
}  # add settings of each new likelihood here
EVERY = [(name, settings) for name, several in SETTINGS.items() for settings in several]
every_likelihood = pytest.mark.parametrize(("name", "settings"), EVERY)
every_channels = pytest.mark.parametrize("channels", [1, 2, 3])
# loc and log-scale, on the scale of [-1, 1]: ordinary, at an edge, outside, sharp, and wider than the range
LOGISTICS = [(0.0, -1.0), (0.3, -3.0), (-1.0, -2.0), (1.0, -7.0), (1.7, -2.0), (-40.0, 1.0), (0.004, -7.0), (0.2, 2.0)]


def output_for(name, settings, channels):
    kind = LIKELIHOODS[name]
    return build_output(kind.config(name=name, **settings), channels)


def draw_output(name, settings, channels, *shape, spread=1.0, seed=0):
    """Return a random output of a decoder, in float64, and the function from outputs to likelihoods."""
    output = output_for(name, settings, channels)
    raw = output.initial.double()[:, None, None] + spread * random(seed, *shape[:-2], len(output.initial), *shape[-2:])
    return raw, output.likelihood


def reference(loc, log_scale):
    """Return P of all 256 levels by plain differences of the distribution function, in float64."""
    edges = (2 * torch.arange(255, dtype=torch.float64) + 1) / 255 - 1
    below = torch.sigmoid((edges - loc) / math.exp(log_scale))
    return torch.cat((below, torch.ones(1).double())) - torch.cat((torch.zeros(1).double(), below))


def probabilities(likelihood, images):
    """Return exp(log p) of many images under the distribution of one pixel."""
    return likelihood.log_prob(images).exp()


def one_logistic(loc, log_scale, dtype=torch.float64):
    return DiscretizedLogistic(*(torch.full((1, 1, 1, 1), value, dtype=dtype) for value in (loc, log_scale)))


def assert_sums_to_one(compute, inputs):
    """The rounding errors of the terms do not cancel as their derivatives do, so their sizes are added."""
    (size,) = size_of(compute, inputs)
    assert_close(compute().sum(), torch.ones(()).double(), size=(size - FLOOR).sum() + FLOOR)


def test_every_likelihood_is_tested():
    assert set(SETTINGS) == set(LIKELIHOODS)


@pytest.mark.parametrize(("loc", "log_scale"), LOGISTICS)
def test_levels_of_a_logistic_sum_to_one(loc, log_scale):
    logistic, images = one_logistic(loc, log_scale), LEVELS.view(256, 1, 1, 1).clone()
    inputs = [logistic.loc, logistic.log_scale, images]
    assert_agrees(reference(loc, log_scale), lambda: probabilities(logistic, images), inputs)
    assert_sums_to_one(lambda: probabilities(logistic, images), inputs)


@pytest.mark.parametrize("level", [0, 1, 254, 255])
def test_edges_take_the_tails(level):
    """The first and the last level include everything beyond them, and their neighbours only their bin."""
    p = probabilities(one_logistic(0.1, 1.0), LEVELS[level].view(1, 1, 1, 1))
    assert_close(p[0], reference(0.1, 1.0)[level])
    assert (p.item() > 0.2) == (level in (0, 255))


def mixture_of_one_pixel(channels, num_mixtures=3, spread=1.0, seed=0):
    return draw_output("logistic_mixture", {"num_mixtures": num_mixtures}, channels, 1, 1, 1, spread=spread)


@pytest.mark.parametrize("spread", [0.3, 1.0, 5.0, 50.0])
def test_levels_of_a_mixture_sum_to_one(spread):
    (raw, make), images = mixture_of_one_pixel(1, spread=spread), LEVELS.view(256, 1, 1, 1).clone()
    assert_sums_to_one(lambda: probabilities(make(raw), images), [raw, images])


@pytest.mark.parametrize("spread", [0.3, 1.0, 5.0, 50.0])
def test_colours_sum_to_one_by_the_chain_rule(spread):
    """Over blue: to p(red, green). Over green and blue: to p(red), whose sum over red is 1 again.

    An edge of a bin, of magnitude 1 + |loc| at most, is rounded before it is divided by the scale. So the relative
    error of each probability, and of sums of them, has the size (1 + |loc|) / scale of the worst component.
    """
    raw, make = mixture_of_one_pixel(3, spread=spread)
    likelihood = make(raw)
    weights = likelihood.logits.softmax(-3).flatten()
    several = (likelihood.locs, likelihood.log_scales, likelihood.slopes)
    locs, log_scales, slopes = (torch.stack([part.flatten() for part in parts], dim=-1) for parts in several)  # (K, 3)
    reds = torch.stack([reference(locs[k, 0].item(), log_scales[k, 0].item()) for k in range(3)])
    assert_close((weights @ reds).sum().item(), 1.0)
    condition = ((1 + locs.abs() + slopes.abs().sum()) * (-log_scales).exp()).max()
    green, blue = (axis.flatten() for axis in torch.meshgrid(LEVELS, LEVELS, indexing="ij"))
    for level in (0, 3, 200, 255):
        red = LEVELS[level].expand(len(green))
        joint = probabilities(likelihood, torch.stack((red, green, blue), dim=-1)[..., None, None])
        greens = torch.stack(
            [
                reference((locs[k, 1] + slopes[k, 0] * (2 * LEVELS[level] - 1)).item(), log_scales[k, 1].item())
                for k in range(3)
            ]
        )
        marginal = torch.einsum("k,k,kg->g", weights, reds[:, level], greens)
        assert_close(joint.view(256, 256).sum(1), marginal, size=FLOOR + condition * marginal)
        p_of_red = weights @ reds[:, level]
        assert_close(joint.sum(), p_of_red, size=FLOOR + condition * p_of_red)


def test_green_depends_on_red_and_blue_on_both():
    raw, make = draw_output("logistic_mixture", {"num_mixtures": 1}, 3, 1, 1, 1)
    raw[:, 7:10] = torch.tensor([0.5, -0.4, 0.9], dtype=torch.float64).atanh()[:, None, None]
    likelihood = make(raw)
    loc, x = torch.stack(likelihood.locs).flatten(), torch.tensor([0.2, 0.6, 1.0]).double()
    red, green, _ = 2 * x - 1
    expected = (loc[0], loc[1] + 0.5 * red, loc[2] - 0.4 * red + 0.9 * green)
    for channel, value in enumerate(expected):
        assert_close(likelihood.loc_given(channel, (2 * x - 1).view(3, 1, 1)).squeeze(), value)


def test_channels_that_are_not_colours_are_independent_given_the_component():
    raw, make = mixture_of_one_pixel(2, num_mixtures=1)
    first, second = (LEVELS[[20, 20, 90, 90]], LEVELS[[7, 200, 7, 200]])
    x = torch.stack((first, second), dim=-1)[..., None, None]
    a, b, c, d = make(raw).log_prob(x)
    (sizes,) = size_of(lambda: make(raw).log_prob(x), [raw, x])
    assert_close(a - b, c - d, size=sizes.sum())


@every_likelihood
@every_channels
@pytest.mark.parametrize("sample_shape", [(), (3,), (2, 3)])
def test_shapes(name, settings, channels, sample_shape):
    raw, make = draw_output(name, settings, channels, *sample_shape, 2, 4, 5)
    likelihood, draws = make(raw), torch.Generator().manual_seed(0)
    x = likelihood.sample(draws)
    assert x.shape == likelihood.mean.shape == (*sample_shape, 2, channels, 4, 5)
    one = x.flatten(0, -5)[0] if sample_shape else x
    log_prob = likelihood.log_prob(one)
    assert log_prob.shape == (*sample_shape, 2)
    singles = [make(single).log_prob(one) for single in raw.flatten(0, -5)] if sample_shape else [make(raw).log_prob(x)]
    assert_agrees(torch.stack(singles).view_as(log_prob), lambda: make(raw).log_prob(one), [raw])


@every_likelihood
@every_channels
def test_samples_are_levels(name, settings, channels):
    raw, make = draw_output(name, settings, channels, 20, 8, 8, spread=2.0)
    likelihood = make(raw)
    x = likelihood.sample(torch.Generator().manual_seed(0))
    steps = 1 if likelihood.of_bits else 255
    assert_close(x * steps, (x * steps).round(), size=steps)
    assert x.min() == 0 and x.max() == 1
    assert torch.equal(x, likelihood.sample(torch.Generator().manual_seed(0)))
    assert not torch.equal(x, likelihood.sample(torch.Generator().manual_seed(1)))
    assert likelihood.log_prob(x).isfinite().all()


@every_likelihood
@every_channels
def test_mean_is_that_of_the_samples(name, settings, channels):
    """Within 5 standard errors of 40,000 draws of one pixel, and one level for the clipping and for the slopes.

    The mean is that of clipped variables in place of rounded ones, and the slopes of colours are small here.
    """
    raw, make = draw_output(name, settings, channels, 1, 1, 1, spread=0.4, seed=3)
    likelihood = make(raw.expand(40_000, -1, -1, -1))
    x = likelihood.sample(torch.Generator().manual_seed(0))
    error = (x.mean(0) - likelihood.mean[0]).abs()
    assert (error < 5 * x.std(0) / 40_000**0.5 + 1 / 255).all()


@pytest.mark.parametrize(("loc", "log_scale"), LOGISTICS)
def test_mean_of_a_logistic_is_within_half_a_level_of_the_exact_one(loc, log_scale):
    """It is the mean of the clipped variable, and rounding moves a variable by half a level at most."""
    exact = (reference(loc, log_scale) * LEVELS).sum().item()
    mean = one_logistic(loc, log_scale).mean.item()
    assert mean == pytest.approx(exact, abs=0.51 / 255) and 0 <= mean <= 1


@pytest.mark.parametrize(("size", "expected"), [(1e8, 1.0), (-1e8, 0.0), (1e30, 1.0)])
def test_mean_of_a_far_loc_is_the_edge(size, expected):
    loc = torch.full((1, 1, 1, 1), size)
    assert DiscretizedLogistic(loc, torch.full_like(loc, -7.0)).mean.item() == expected


@every_likelihood
@every_channels
@pytest.mark.parametrize("size", [1.0, 1e2, 1e4, 1e8])
def test_finite_in_float32_for_every_output(name, settings, channels, size):
    raw, make = draw_output(name, settings, channels, 16, 8, 8, spread=size)
    raw = raw.float().requires_grad_()
    likelihood = make(raw)
    x = torch.arange(16 * channels * 64).remainder(256).view(16, channels, 8, 8) / 255
    x = (x > 0.5).float() if likelihood.of_bits else x
    log_prob = likelihood.log_prob(x)
    (slopes,) = torch.autograd.grad(log_prob.sum(), raw)
    assert log_prob.isfinite().all() and (log_prob <= 0).all() and slopes.isfinite().all()
    assert likelihood.mean.isfinite().all()
    assert (likelihood.mean >= 0).all() and (likelihood.mean <= 1).all()


@pytest.mark.parametrize(("loc", "log_scale"), LOGISTICS)
def test_float32_agrees_with_float64(loc, log_scale):
    """Also in far tails, where a difference of two sigmoids would be 0 and its log -inf."""
    x, exact = LEVELS.view(256, 1, 1, 1).clone(), one_logistic(loc, log_scale)
    single = one_logistic(loc, log_scale, torch.float32).log_prob(x.float())
    inputs = [exact.loc, exact.log_scale, x]
    assert_agrees(single, lambda: exact.log_prob(x), inputs, dtype=torch.float32)


@every_likelihood
@every_channels
def test_gradients(name, settings, channels):
    raw, make = draw_output(name, settings, channels, 2, 3, 3)
    x = make(raw).sample(torch.Generator().manual_seed(0))
    x[0].clamp_(max=0), x[1, :, 0].clamp_(min=1)  # also the edges
    assert_gradients(lambda output: make(output).log_prob(x), [raw.requires_grad_()], size=100)


@every_likelihood
@every_channels
def test_start_is_a_sensible_image(name, settings, channels):
    """For 8-bit values: mid grey, and no level costs much more than the 8 bits of a uniform distribution."""
    output = output_for(name, settings, channels)
    likelihood = output.likelihood(output.initial[None, :, None, None])
    assert likelihood.mean.shape == (1, channels, 1, 1)
    if likelihood.of_bits:
        assert torch.equal(output.initial, torch.full((channels,), -2.0))
        return
    assert_close(likelihood.mean, torch.full_like(likelihood.mean, 0.5))
    bits = -likelihood.log_prob(LEVELS.float().view(256, 1, 1, 1).expand(-1, channels, 1, 1)) / channels / math.log(2)
    assert bits.max() < 10 and bits.mean() < 8.7


def test_components_start_apart():
    output = output_for("logistic_mixture", {"num_mixtures": 5}, 3)
    for loc in output.likelihood(output.initial[None, :, None, None]).locs:
        assert_close(loc.flatten(), torch.tensor([-0.4, -0.2, 0.0, 0.2, 0.4]))


@pytest.mark.parametrize(("channels", "expected"), [(1, 12), (2, 20), (3, 40), (4, 36)])
def test_parameters_of_a_mixture(channels, expected):
    """Colour takes ten per component: a weight, three locs, three scales and three slopes."""
    assert len(output_for("logistic_mixture", {"num_mixtures": 4}, channels).initial) == expected


def test_one_component_is_the_logistic():
    loc, log_scale = random(0, 2, 1, 4, 4), -1 + random(1, 2, 1, 4, 4)
    mixture = LogisticMixture(random(2, 2, 1, 4, 4), [loc], [log_scale], [])
    logistic = DiscretizedLogistic(loc, log_scale)
    x = logistic.sample(torch.Generator().manual_seed(0))
    assert_agrees((mixture.log_prob(x), mixture.mean), lambda: (logistic.log_prob(x), logistic.mean), [loc, log_scale])


@every_likelihood
@pytest.mark.parametrize("channels", [1, 2])
def test_bits_of_samples_are_the_entropy(name, settings, channels):
    """The average -log2 p of draws is the entropy of the probabilities of all images."""
    raw, make = draw_output(name, settings, channels, 1, 1, 1, seed=5)
    values = torch.tensor([0.0, 1.0]).double() if make(raw).of_bits else LEVELS
    p = probabilities(make(raw), torch.cartesian_prod(*[values] * channels).view(-1, channels, 1, 1))
    check_entropy(make, raw, -torch.special.xlogy(p, p).sum().item() / math.log(2))


def test_bits_of_colours_are_the_entropy():
    """The same for 128^3 colours in the middle of the range, with scales of about two levels.

    They are all colours that matter: red, green and blue are within 0.1, 0.15 and 0.2 of mid grey plus 27 scales of
    0.013, and all else has a probability of exp(-27), 2e-12, for each of them.
    """
    raw, make = draw_output("logistic_mixture", {"num_mixtures": 2}, 3, 1, 1, 1)
    raw[:, 2:8] = 0.05 * random(1, 6, 1, 1)  # locs
    raw[:, 8:14] = -4.5  # log-scales before their bounds
    raw[:, 14:] *= 0.2  # slopes
    likelihood, total, entropy = make(raw), 0.0, 0.0
    levels = LEVELS[64:192]
    green, blue = (axis.flatten() for axis in torch.meshgrid(levels, levels, indexing="ij"))
    for red in levels:
        x = torch.stack((red.expand(len(green)), green, blue), dim=-1)[..., None, None]
        log_prob = likelihood.log_prob(x)
        total += log_prob.exp().sum().item()
        entropy -= (log_prob.exp() * log_prob).sum().item() / math.log(2)
    assert total == pytest.approx(1, abs=1e-9)
    check_entropy(make, raw, entropy)


def check_entropy(make, raw, entropy):
    """Assert that -log2 p of 40,000 draws is the entropy within 5 standard errors, which are below 0.05 bits."""
    num_draws = 40_000
    x = make(raw.expand(num_draws, -1, -1, -1)).sample(torch.Generator().manual_seed(0))
    surprise = -make(raw).log_prob(x) / math.log(2)
    stderr = surprise.std().item() / num_draws**0.5
    assert stderr < 0.05
    assert abs(surprise.mean().item() - entropy) < 5 * stderr


def test_bernoulli_of_bits():
    logits = random(0, 3, 1, 2, 2)
    x = random(1, 3, 1, 2, 2).sign().relu()
    p = torch.where(x > 0, logits.sigmoid(), 1 - logits.sigmoid())
    assert_agrees(p.log().sum((-3, -2, -1)), lambda: Bernoulli(logits).log_prob(x), [logits])
