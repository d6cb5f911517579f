"""Autoregressive flows: who depends on whom, in both directions, and for every width."""

import pytest
import torch
from examples import make_flow, perturb, random
from tolerances import assert_agrees, assert_close, assert_round_trip, jacobian_of

from flowvae.model.flows.autoregressive import AffineAutoregressiveFlow
from flowvae.model.networks import MaskedMLP

FAMILIES = {
    "autoregressive": {"log_scale_bound": 2.0},
    "spline_autoregressive": {"num_bins": 3, "bound": 3.0},
}


def make(family, dim, **changes):
    settings = {"num_transforms": 1, "hidden_features": (8,), "context": False} | FAMILIES[family] | changes
    return perturb(make_flow(family, settings, (dim,)), std=0.3)


@pytest.mark.parametrize("hidden", [(1,), (3,), (40,), (5, 5), (9, 2, 9)])
@pytest.mark.parametrize("dim", [1, 2, 3, 7])
@pytest.mark.parametrize("context_features", [0, 2])
def test_an_output_depends_on_all_inputs_before_it_and_on_no_other(dim, hidden, context_features):
    degrees = 1 + torch.randperm(dim, generator=torch.Generator().manual_seed(dim))
    net = perturb(MaskedMLP(degrees, hidden, 2, context_features).double())
    z, context = random(0, 1, dim).requires_grad_(), random(1, 1, hidden[0])
    out = net(z, context if context_features else None)  # (1, D, 2)
    for i in range(dim):
        for j in range(2):
            (slope,) = torch.autograd.grad(out[0, i, j], z, retain_graph=True, allow_unused=True)
            assert torch.equal(slope[0] != 0, degrees < degrees[i])


@pytest.mark.parametrize("hidden", [(1,), (6,), (3, 4)])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_context_reaches_every_output(dim, hidden):
    """Also the first one in the order, which depends on no input."""
    net = perturb(MaskedMLP(1 + torch.arange(dim), hidden, 1, 3).double())
    term = random(1, 1, hidden[0]).requires_grad_()
    for output in net(random(0, 1, dim), term)[0, :, 0]:
        (slope,) = torch.autograd.grad(output, term, retain_graph=True)
        assert slope.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_reverses(family):
    """The Jacobian of one transformation is lower triangular, of the next upper triangular, and of both neither."""
    flow, z = make(family, 5, num_transforms=2, hidden_features=(16,)), random(0, 3, 5)
    both, single = flow(torch.zeros(3, 0)), flow(torch.zeros(3, 0))
    single.nets, single.context_terms = flow.nets[:1], single.context_terms[:1]
    jacobian = jacobian_of(single, z)[1]
    assert not jacobian.triu(1).any() and (jacobian.tril(-1) != 0).sum() == 3 * 10
    single.nets, single.degrees = flow.nets[1:], flow.degrees[1:]
    assert not jacobian_of(single, z)[1].tril(-1).any()
    assert (jacobian_of(both, z)[1] != 0).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [1, 2, 3, 41])
def test_round_trip(family, dim):
    flow = make(family, dim, num_transforms=2, hidden_features=(6,), context=True)
    assert_round_trip(flow(random(1, 4, flow.context_features)), 0.5 * random(0, 4, dim))


def test_sampling_is_one_pass_and_the_inverse_one_per_dimension():
    flow, calls = make("autoregressive", 6, num_transforms=3), []
    for net in flow.nets:
        net.register_forward_hook(lambda *_: calls.append(1))
    flow(torch.zeros(2, 0)).call_and_ladj(random(0, 2, 6))
    assert len(calls) == 3
    flow(torch.zeros(2, 0)).inv(random(0, 2, 6))
    assert len(calls) == 3 + 3 * 6


def test_affine_transformation_of_the_textbook():
    flow, z = make("autoregressive", 4), random(0, 3, 4)

    def expected():
        raw, t = flow.nets[0](z).unbind(-1)
        s = 2.0 * torch.tanh(raw / 2.0)
        return z * s.exp() + t, s.sum(-1)

    assert_agrees(flow(torch.zeros(3, 0)).call_and_ladj(z), expected, [z, *flow.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deep_stacks_with_large_biases_stay_finite(dtype):
    """K = 80 with log-scales at their bound: e^(0.2 K) is large, but a number."""
    flow = AffineAutoregressiveFlow(
        (3,), 0, num_transforms=80, hidden_features=(8,), context=False, log_scale_bound=0.2
    ).to(dtype)
    with torch.no_grad():
        for net in flow.nets:
            net.rest[-1].bias.copy_(1e3 * random(0, 6).to(dtype))
    out, ladj = flow(torch.zeros(4, 0)).call_and_ladj(random(0, 4, 3).to(dtype))
    assert out.isfinite().all() and ladj.isfinite().all() and (ladj.abs() <= 80 * 3 * 0.2 + 1e-3).all()


def test_deeper_stacks_move_each_transformation_less():
    """Outputs of K nets, of random signs, add up to about one: the gain is 1 / sqrt(K)."""
    assert_close(make("autoregressive", 2, num_transforms=16).gain, 0.25)
