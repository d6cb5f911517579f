"""Autoregressive flows: who depends on whom, in both directions, and for every width; the gates."""

import math

import pytest
import torch
from examples import make_flow, perturb, random
from tolerances import assert_agrees, assert_close, assert_gradients, assert_round_trip, jacobian_of, tolerance

from flowvae.model.networks import MaskedLinear, MaskedMLP

FAMILIES = {
    "autoregressive": {"log_scale_bound": 2.0, "gate": "affine"},
    "spline_autoregressive": {"num_bins": 3, "bound": 3.0},
}
every_gate = pytest.mark.parametrize("gate", ["affine", "stable"])


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
    out = net(z, context if context_features else None)  # (1, 2, D)
    for i in range(dim):
        for j in range(2):
            (slope,) = torch.autograd.grad(out[0, j, i], z, retain_graph=True, allow_unused=True)
            assert torch.equal(slope[0] != 0, degrees < degrees[i])


@pytest.mark.parametrize("hidden", [(1,), (6,), (3, 4)])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_context_reaches_every_output(dim, hidden):
    """Also the first one in the order, which depends on no input."""
    net = perturb(MaskedMLP(1 + torch.arange(dim), hidden, 1, 3).double())
    term = random(1, 1, hidden[0]).requires_grad_()
    for output in net(random(0, 1, dim), term)[0, 0]:
        (slope,) = torch.autograd.grad(output, term, retain_graph=True)
        assert slope.any()


@pytest.mark.parametrize("hidden", [(1,), (5,), (9, 2), (9, 2, 9), (4, 1), (1, 4)])
@pytest.mark.parametrize("dim", [1, 2, 7])
@pytest.mark.parametrize("context_features", [0, 2])
def test_no_hidden_unit_is_dead(dim, hidden, context_features):
    """Units of a high degree would be, before a layer that is too narrow to have one."""
    net = perturb(MaskedMLP(1 + torch.arange(dim), hidden, 1, context_features).double())
    term = net.context(random(1, 40, context_features)) if context_features else None
    out = net(random(0, 40, dim), term)
    (out * random(2, *out.shape)).sum().backward()
    present = {f"{name}.weight": layer.mask != 0 for name, layer in net.named_modules() if type(layer) is MaskedLinear}
    for name, parameter in net.named_parameters():
        reached = parameter.grad.abs() > tolerance(1)
        assert torch.equal(reached, present.get(name, torch.ones_like(reached))), name


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


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_through_the_inverse(family):
    transform = make(family, 3, num_transforms=2)(torch.zeros(4, 0))
    z = random(0, 4, 3).requires_grad_()
    assert_gradients(transform.inv_and_ladj, [z], size=10.0)


@every_gate
def test_one_dimension_is_moved_by_an_affine_map_of_the_context(gate):
    flow = make("autoregressive", 1, context=True, gate=gate)
    transform, z = flow(random(1, 4, flow.context_features)), random(0, 3, 4, 1)
    (first, second, third), ladj = transform.call_and_ladj(z)
    slope = (second - first) / (z[1] - z[0])
    assert_close(third, first + slope * (z[2] - z[0]), size=100.0)
    assert_close(ladj[0], slope[:, 0].log(), size=100.0)
    assert len(set(slope.flatten().tolist())) == 4  # one for each context


def test_sampling_is_one_pass_and_the_inverse_one_per_dimension():
    flow, calls = make("autoregressive", 6, num_transforms=3), []
    for net in flow.nets:
        net.register_forward_hook(lambda *_: calls.append(1))
    flow(torch.zeros(2, 0)).call_and_ladj(random(0, 2, 6))
    assert len(calls) == 3
    flow(torch.zeros(2, 0)).inv(random(0, 2, 6))
    assert len(calls) == 3 + 3 * 6


def affine(z, s, m):
    return z * s.exp() + m, s.sum(-1)


def stable(z, s, m):
    """The update of arXiv:1606.04934, of which the scale is divided by the one at the start."""
    sigma = 1 / (1 + torch.exp(-s - 1))
    relative = sigma * (1 + math.exp(-1))
    return z * relative + (1 - sigma) * m, relative.log().sum(-1)


@pytest.mark.parametrize("textbook", [affine, stable])
def test_transformation_of_the_textbook(textbook):
    flow, z = make("autoregressive", 4, gate=textbook.__name__), random(0, 3, 4)

    def expected():
        raw, m = flow.nets[0](z).unbind(-2)
        return textbook(z, 2.0 * torch.tanh(raw), m)

    assert_agrees(flow(torch.zeros(3, 0)).call_and_ladj(z), expected, [z, *flow.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [-1e3, 1e3])
@pytest.mark.parametrize("bound", [0.5, 5.0])
@every_gate
def test_log_scales_are_bounded_for_any_weights(gate, bound, size, dtype):
    flow = make("autoregressive", 3, gate=gate, log_scale_bound=bound).to(dtype)
    with torch.no_grad():
        flow.nets[0].rest[-1].bias.copy_(torch.tensor([size, 1.0]).repeat_interleave(3))
    transform, z = flow(torch.zeros(4, 0)), random(0, 4, 3).to(dtype)
    out, ladj = transform.call_and_ladj(z)
    highest = bound if gate == "affine" or size < 0 else math.log1p(math.exp(-1))
    assert (ladj.abs() <= 3 * highest + tolerance(1, dtype=dtype)).all() and (ladj * size > 0).all()
    assert_close(transform.inv(out), z, size=1e2 * math.exp(bound))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_gate
def test_deep_stacks_with_large_biases_stay_finite(gate, dtype):
    """K = 80 with log-scales at their bound: e^(0.2 K) is large, but a number."""
    changes = {"num_transforms": 80, "log_scale_bound": 0.2, "gate": gate}
    flow = make("autoregressive", 3, **changes).to(dtype)
    with torch.no_grad():
        for net in flow.nets:
            net.rest[-1].bias.copy_(1e3 * random(0, 6).to(dtype))
    out, ladj = flow(torch.zeros(4, 0)).call_and_ladj(random(0, 4, 3).to(dtype))
    assert out.isfinite().all() and ladj.isfinite().all() and (ladj.abs() <= 80 * 3 * 0.2 + 1e-3).all()


def test_deeper_stacks_move_each_transformation_less():
    """Outputs of K nets, of random signs, add up to about one: the gain is 1 / sqrt(K)."""
    single, deep = (make("autoregressive", 2, num_transforms=count).nets[0] for count in (1, 16))
    deep.load_state_dict(single.state_dict())
    assert_close(deep(random(0, 3, 2)), 0.25 * single(random(0, 3, 2)))
