"""Batch norm, act norm and weight norm: arithmetic, initialization, and the statistics that each mode uses."""

import copy
import pickle

import pytest
import torch
from examples import FLOW_SETTINGS, PLAIN, make_flow, perturb, random
from tolerances import assert_agrees, assert_close

from flowvae.model.batch_norm import BatchNorm, BatchStatistics, excluded
from flowvae.model.flows.normalization import ActNormLayer, BatchNormLayer
from flowvae.model.networks import MLP, plain_weights

LAYERS = [BatchNormLayer, ActNormLayer]
FEATURES, POSITIONS = 3, 4
every_layer = pytest.mark.parametrize("kind", LAYERS)
every_layout = pytest.mark.parametrize("positions", [1, POSITIONS])


NO_EPSILON = 1e-30  # for torch, which adds it to the variance: it must be positive, and this is below rounding


def rows(z, positions):
    """(..., D) -> (N, features): one column for all numbers that share a scale and a shift."""
    return z.reshape(-1, FEATURES, positions).movedim(1, -1).reshape(-1, FEATURES)


@every_layer
@every_layout
def test_first_batch_in_training_gets_mean_0_and_variance_1(kind, positions):
    layer = kind(FEATURES, positions).double()
    z = 3 * random(0, 2, 5, FEATURES * positions) + 7
    out, ladj = layer().call_and_ladj(z)
    normalised, columns = rows(out, positions), rows(z, positions)
    size = 1 + columns.abs().mean(0) / columns.std(0)  # the mean cancels
    assert_close(normalised.mean(0), torch.zeros(FEATURES).double(), size=size)
    assert_close(normalised.var(0, correction=0), torch.ones(FEATURES).double(), size=size)
    expected = -0.5 * positions * columns.var(0, correction=0).log().sum()
    assert_close(ladj, expected.expand(2, 5))


@every_layout
def test_batch_norm_is_that_of_torch_and_gradients_flow_through_the_moments(positions):
    layer, z = perturb(BatchNormLayer(FEATURES, positions).double()), random(0, 20, FEATURES * positions)
    z.requires_grad_()

    def ours():
        return rows(layer().call_and_ladj(z)[0], positions)

    def oracle():
        weight, bias = layer.scaling.log_scale.exp(), layer.scaling.shift
        columns = rows(z, positions)
        return torch.nn.functional.batch_norm(columns, None, None, weight, bias, training=True, eps=NO_EPSILON)

    def with_gradient(out):
        return out, torch.autograd.grad((out * random(1, *out.shape)).sum(), z)[0]

    assert_agrees(with_gradient(oracle()), lambda: with_gradient(ours()), [z, *layer.parameters()])


def test_evaluation_uses_the_population_only():
    layer = perturb(BatchNormLayer(FEATURES, 1).double()).eval()
    statistics = layer.scaling.statistics
    z = 5 * random(0, 4, FEATURES) + 3
    scale = layer.scaling.log_scale.exp() / statistics.variance.sqrt()
    expected = (z - statistics.mean) * scale + layer.scaling.shift, scale.log().sum().expand(4)
    inputs = [z, *layer.parameters(), statistics.mean, statistics.variance]
    assert_agrees(expected, lambda: layer().call_and_ladj(z), inputs)


@every_layer
def test_batch_norm_has_no_inverse_in_training(kind):
    layer = kind(FEATURES, 1)
    assert layer.eval()().has_inverse
    assert layer.train()().has_inverse == (kind is ActNormLayer)


def test_a_flow_with_batch_norm_has_no_inverse_in_training():
    flow = make_flow("real_nvp", NVP | {"normalization": "batch_norm"}, (4,))
    with pytest.raises(NotImplementedError, match="no closed-form inverse"):
        flow.train()(torch.zeros(1, 0)).inv(random(0, 3, 4))


NVP = PLAIN | {"num_transforms": 2, "hidden_features": (5,), "context": False, "log_scale_bound": 2.0}


def test_one_row_has_no_variance_and_gets_the_population():
    layer = perturb(BatchNormLayer(FEATURES, 1).double())
    z = random(0, 1, FEATURES)
    alone, evaluated = layer.train()().call_and_ladj(z), layer.eval()().call_and_ladj(z)
    assert all(torch.equal(*pair) for pair in zip(alone, evaluated, strict=True))


def test_a_feature_that_never_varies_stays_finite():
    layer = BatchNormLayer(FEATURES, 1).double()
    out, ladj = layer().call_and_ladj(torch.ones(6, FEATURES).double().requires_grad_())
    (out.sum() + ladj.sum()).backward()
    assert out.isfinite().all() and ladj.isfinite().all() and layer.scaling.log_scale.grad.isfinite().all()


def test_act_norm_before_its_first_batch_is_the_identity():
    layer, z = ActNormLayer(FEATURES, 1).double().eval(), 3 * random(0, 4, FEATURES) + 5
    out, ladj = layer().call_and_ladj(z)
    assert torch.equal(out, z) and not ladj.any() and not layer.initialized


def test_act_norm_of_one_row_only_shifts():
    layer, z = ActNormLayer(FEATURES, 1).double(), 3 * random(0, 1, FEATURES) + 5
    out, ladj = layer().call_and_ladj(z)
    assert_close(out, torch.zeros_like(out), size=z)
    assert not ladj.any() and layer.initialized


def test_act_norm_is_initialized_once_also_across_a_resume():
    layer, other = ActNormLayer(FEATURES, 1).double(), ActNormLayer(FEATURES, 1).double()
    layer().call_and_ladj(3 * random(0, 4, FEATURES))
    started = copy.deepcopy(layer.state_dict())
    layer().call_and_ladj(10 * random(1, 4, FEATURES))
    other.load_state_dict(layer.state_dict())
    other().call_and_ladj(10 * random(1, 4, FEATURES))
    for state in (layer.state_dict(), other.state_dict()):
        assert all(torch.equal(value, started[name]) for name, value in state.items())


def test_act_norm_restored_from_before_its_first_batch_is_initialized_again():
    layer = ActNormLayer(FEATURES, 1).double()
    before, z = copy.deepcopy(layer.state_dict()), 3 * random(0, 4, FEATURES)
    layer().call_and_ladj(z)
    expected = copy.deepcopy(layer.state_dict())
    layer.load_state_dict(before)
    layer().call_and_ladj(z)
    assert all(torch.equal(value, expected[name]) for name, value in layer.state_dict().items())
    assert layer.log_scale.any()


class Gathered:
    """A sum over workers whose shares are all in this process: count and sum first, then squared distances."""

    def __init__(self, shares):
        self.shares = [share.movedim(1, -1).reshape(-1, share.shape[1]) for share in shares]
        self.calls = 0

    def __call__(self, tensor):
        self.calls += 1
        whole = torch.cat(self.shares)
        if self.calls == 1:
            return torch.cat((whole.new_tensor([len(whole)]), whole.sum(0)))
        return (whole - whole.mean(0)).square().sum(0)


@pytest.mark.parametrize("sizes", [(4, 4), (5, 2, 1), (7, 0)])
def test_sums_and_counts_of_uneven_shares_are_the_moments_of_the_batch(sizes):
    """The contributions of all workers add up to what `Gathered` returns, and the moments are those of the batch."""
    whole = random(0, sum(sizes), FEATURES, 2, 2) + 3
    shares = whole.split(sizes)
    contributions = []
    for share in shares:
        gathered, given = Gathered(shares), []
        statistics = BatchStatistics()
        statistics.sum_over_workers = lambda tensor, given=given, gathered=gathered: (
            given.append(tensor) or gathered(tensor)
        )
        count, mean, variance = statistics(share)
        contributions.append(given)
        moments, size = (whole.mean((0, 2, 3)), whole.var((0, 2, 3), correction=0)), whole.square().mean()
        assert count.item() == 4 * len(whole)
        assert_close((mean, variance), moments, size=(size, size))
    gathered, size = Gathered(shares), 4 * whole.square().sum()
    for column in zip(*contributions, strict=True):
        assert_close(sum(column), gathered(None), size=size)


def test_an_excluded_worker_adds_nothing():
    layer, given = BatchNormLayer(FEATURES, 1).double(), []
    layer.scaling.statistics.batch.sum_over_workers = lambda tensor: given.append(tensor) or tensor
    with excluded(layer):
        layer().call_and_ladj(random(0, 4, FEATURES))
    assert len(given) == 2 and not any(tensor.any() for tensor in given)
    layer().call_and_ladj(random(0, 4, FEATURES))
    assert given[2].any()


def test_batch_norm_in_a_network_treats_samples_and_images_alike():
    layer, x = BatchNorm(FEATURES).double(), 3 * random(0, 4, 5, FEATURES) + 2
    assert_agrees(layer(x.flatten(0, 1)).view_as(x), lambda: layer(x), [x])
    assert_close(layer(x).mean((0, 1)), torch.zeros(FEATURES).double(), size=1 + x.abs().mean((0, 1)))
    images, maps = BatchNorm(FEATURES, num_position_axes=2).double(), 3 * random(0, 4, FEATURES, 2, 2)
    expected = torch.nn.functional.batch_norm(maps, None, None, training=True, eps=NO_EPSILON)
    assert_agrees(expected, lambda: images(maps), [maps])


def test_weight_norm_of_a_zero_layer_has_a_direction_and_a_gradient():
    net = MLP(3, (6,), 4, weight_norm=True).zero_last().double()
    out = net(random(0, 5, 3))
    assert not out.any() and net.rest[-1].weight.isfinite().all()
    (out * random(1, 5, 4)).sum().backward()
    magnitude = net.rest[-1].parametrizations.weight
    assert (magnitude.original0.grad != 0).all() and (magnitude.original1 != 0).all()


def test_weight_norm_is_direction_times_magnitude():
    net = perturb(MLP(3, (6,), 4, context_features=2, weight_norm=True))
    for layer in (net.first, net.context, net.rest[-1]):
        parts = layer.parametrizations.weight
        expected = parts.original0 * parts.original1 / parts.original1.norm(dim=1, keepdim=True)
        assert_close(layer.weight, expected)


@pytest.mark.parametrize("family", ["real_nvp", "conv_real_nvp"])
def test_plain_weights_compute_the_same_and_can_be_sent(family):
    flow = perturb(make_flow(family, FLOW_SETTINGS[family][-1] | {"weight_norm": True}, (4,))).eval()
    z, context = random(0, 3, 4), torch.zeros(3, 0).double()
    weights = copy.deepcopy(flow.state_dict())
    plain = pickle.loads(pickle.dumps(plain_weights(flow)))
    inputs = [z, *flow.parameters()]
    assert_agrees(plain(context).call_and_ladj(z), lambda: flow(context).call_and_ladj(z), inputs)
    assert all(torch.equal(value, weights[name]) for name, value in flow.state_dict().items())  # as before
    assert "original0" in str(list(flow.state_dict())) and "original0" not in str(list(plain.state_dict()))
    unnormed = make_flow(family, FLOW_SETTINGS[family][-1], (4,))
    assert plain_weights(unnormed) is unnormed
