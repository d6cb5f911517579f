"""Batch norm, act norm and weight norm: their arithmetic, their start, and what they use in each mode."""

import copy
import pickle

import pytest
import torch
from examples import FLOW_SETTINGS, PLAIN, make_flow, perturb, random

from flowvae.flows.normalization import ActNormLayer, BatchNormLayer
from flowvae.networks import MLP, plain_weights
from flowvae.statistics import BatchNorm, BatchStatistics, left_out

LAYERS = [BatchNormLayer, ActNormLayer]
FEATURES, POSITIONS = 3, 4
every_layer = pytest.mark.parametrize("kind", LAYERS)
every_layout = pytest.mark.parametrize("positions", [1, POSITIONS])


def rows(z, positions):
    """(..., D) -> (N, features): everything that shares a scale and a shift, worked out on its own."""
    return z.reshape(-1, FEATURES, positions).movedim(1, -1).reshape(-1, FEATURES)


@every_layer
@every_layout
def test_first_batch_in_training_gets_mean_0_and_variance_1(kind, positions):
    layer = kind(FEATURES, positions).double()
    z = 3 * random(0, 2, 5, FEATURES * positions) + 7
    out, ladj = layer().call_and_ladj(z)
    found = rows(out, positions)
    torch.testing.assert_close(found.mean(0), torch.zeros(FEATURES).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.var(0, correction=0), torch.ones(FEATURES).double())
    expected = -0.5 * positions * rows(z, positions).var(0, correction=0).log().sum()
    torch.testing.assert_close(ladj, expected.expand(2, 5))


@every_layout
def test_batch_norm_is_that_of_torch_and_gradients_flow_through_the_moments(positions):
    layer, z = perturb(BatchNormLayer(FEATURES, positions).double()), random(0, 20, FEATURES * positions)
    oracle = torch.nn.functional.batch_norm
    ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    weight, bias = layer.scaling.log_scale.exp(), layer.scaling.shift
    expected = oracle(rows(theirs, positions), None, None, weight, bias, training=True, eps=1e-12)
    found = rows(layer().call_and_ladj(ours)[0], positions)
    torch.testing.assert_close(found, expected)
    for out in (found, expected):
        (out * random(1, *out.shape)).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_evaluation_uses_the_population_alone():
    layer = perturb(BatchNormLayer(FEATURES, 1).double()).eval()
    statistics = layer.scaling.statistics
    z = 5 * random(0, 4, FEATURES) + 3
    scale = layer.scaling.log_scale.exp() / statistics.variance.sqrt()
    out, ladj = layer().call_and_ladj(z)
    torch.testing.assert_close(out, (z - statistics.mean) * scale + layer.scaling.shift)
    torch.testing.assert_close(ladj, scale.log().sum().expand(4))


@every_layer
def test_only_what_knows_its_batch_has_an_inverse(kind):
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


def test_act_norm_of_one_row_shifts_alone():
    layer, z = ActNormLayer(FEATURES, 1).double(), 3 * random(0, 1, FEATURES) + 5
    out, ladj = layer().call_and_ladj(z)
    torch.testing.assert_close(out, torch.zeros_like(out))
    assert not ladj.any() and layer.initialized


def test_act_norm_starts_once_then_trains_and_knows_it_after_a_resume():
    layer, other = ActNormLayer(FEATURES, 1).double(), ActNormLayer(FEATURES, 1).double()
    layer().call_and_ladj(3 * random(0, 4, FEATURES))
    started = copy.deepcopy(layer.state_dict())
    layer().call_and_ladj(10 * random(1, 4, FEATURES))
    other.load_state_dict(layer.state_dict())
    other().call_and_ladj(10 * random(1, 4, FEATURES))
    for state in (layer.state_dict(), other.state_dict()):
        assert all(torch.equal(value, started[name]) for name, value in state.items())


def test_act_norm_that_goes_back_to_before_its_first_batch_starts_again():
    layer = ActNormLayer(FEATURES, 1).double()
    before, z = copy.deepcopy(layer.state_dict()), 3 * random(0, 4, FEATURES)
    layer().call_and_ladj(z)
    expected = copy.deepcopy(layer.state_dict())
    layer.load_state_dict(before)
    layer().call_and_ladj(z)
    assert all(torch.equal(value, expected[name]) for name, value in layer.state_dict().items())
    assert layer.log_scale.any()


class Gathered:
    """A sum over workers whose shares are all in this process, taken one after another: moments of the whole."""

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
    """Every worker's contributions add up to what `Gathered` says, and the moments are those of the whole batch."""
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
        torch.testing.assert_close(count, torch.tensor([4.0 * len(whole)]).double())
        torch.testing.assert_close(mean, whole.mean((0, 2, 3)))
        torch.testing.assert_close(variance, whole.var((0, 2, 3), correction=0))
    gathered = Gathered(shares)
    for column in zip(*contributions, strict=True):
        torch.testing.assert_close(sum(column), gathered(None))


def test_who_is_left_out_adds_nothing():
    layer, given = BatchNormLayer(FEATURES, 1).double(), []
    layer.scaling.statistics.batch.sum_over_workers = lambda tensor: given.append(tensor) or tensor
    with left_out(layer):
        layer().call_and_ladj(random(0, 4, FEATURES))
    assert len(given) == 2 and not any(tensor.any() for tensor in given)
    layer().call_and_ladj(random(0, 4, FEATURES))
    assert given[2].any()


def test_batch_norm_in_a_network_sees_samples_and_images_alike():
    layer, x = BatchNorm(FEATURES).double(), 3 * random(0, 4, 5, FEATURES) + 2
    out = layer(x)
    torch.testing.assert_close(out.flatten(0, 1), layer(x.flatten(0, 1)))
    torch.testing.assert_close(out.mean((0, 1)), torch.zeros(FEATURES).double(), rtol=0, atol=1e-9)
    images = BatchNorm(FEATURES, num_position_axes=2).double()
    maps = 3 * random(0, 4, FEATURES, 2, 2)
    expected = torch.nn.functional.batch_norm(maps, None, None, training=True, eps=1e-12)
    torch.testing.assert_close(images(maps), expected)


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
        torch.testing.assert_close(layer.weight, expected)


@pytest.mark.parametrize("family", ["real_nvp", "conv_real_nvp"])
def test_plain_weights_compute_the_same_and_can_be_sent(family):
    flow = perturb(make_flow(family, FLOW_SETTINGS[family][-1] | {"weight_norm": True}, (4,))).eval()
    z, context = random(0, 3, 4), torch.zeros(3, 0).double()
    expected = flow(context).call_and_ladj(z)
    plain = pickle.loads(pickle.dumps(plain_weights(flow)))
    for found, value in zip(plain(context).call_and_ladj(z), expected, strict=True):
        torch.testing.assert_close(found, value)
    assert torch.equal(flow(context).call_and_ladj(z)[0], expected[0])  # the flow is as it was
    assert "original0" in str(list(flow.state_dict())) and "original0" not in str(list(plain.state_dict()))
    unnormed = make_flow(family, FLOW_SETTINGS[family][-1], (4,))
    assert plain_weights(unnormed) is unnormed
