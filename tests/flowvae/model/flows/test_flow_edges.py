"""The contract of every entry of FLOWS at the edges of its numerics.

Depth, large parameters, sizes of the latent, gradients without images and under autocast. See `test_flow_contract`.
"""

import copy

import pytest
import torch
from examples import FLOW_SETTINGS, make_flow, perturb, random
from tolerances import NUM_OPERATIONS, assert_agrees, assert_ladj, assert_round_trip, jacobian_of, tolerance

BATCH, DEPTH = 3, 80
CASES = [(family, settings) for family, examples in FLOW_SETTINGS.items() for settings in examples]
every_flow = pytest.mark.parametrize(("family", "settings"), CASES)

# With nothing to couple, or to rotate, there is no flow of these families. Those that are missing here work.
NEED_TWO_DIMENSIONS = {"householder", "real_nvp", "conv_real_nvp", "spline_coupling"}
# Families whose moves are bounded by their parameters, also where a network would multiply them layer by layer.
WITHOUT_NETWORKS = {"planar", "radial", "householder", "sylvester"}


def row_of(settings, dim):
    """A latent shape of `dim` elements: a vector, or a map of one row."""
    return (1, 1, dim) if "map_shape" in settings else (dim,)


def context_for(flow, batch=BATCH):
    return random(7, batch, flow.context_features)


def backward_of_random_loss(out, ladj):
    loss = (out * random(8, *out.shape).to(out)).sum() + (ladj * random(9, *ladj.shape).to(ladj)).sum()
    if loss.requires_grad:
        loss.backward()


def deep(settings):
    return settings | {"num_transforms": DEPTH if settings["num_transforms"] else 0}


def deep_case(family, settings):
    """One example of each family is enough for a quick run."""
    if settings is not FLOW_SETTINGS[family][-1]:
        return pytest.param(family, settings, marks=pytest.mark.slow)
    return pytest.param(family, settings, marks=[pytest.mark.long] if family == "conv_real_nvp" else [])


@pytest.mark.long
@pytest.mark.parametrize(("family", "settings"), [deep_case(*case) for case in CASES])
def test_eighty_transformations_train_a_step(family, settings):
    """A step of Adam from the start moves samples by about as much for all depths, and ladj is right after it."""
    latent_shape = (1, 2, 2) if "map_shape" in settings else (4,)
    flow = make_flow(family, deep(settings), latent_shape).train()
    z, context = random(0, 20, BATCH, 4), context_for(flow)
    if settings["num_transforms"]:
        optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
        backward_of_random_loss(*flow(context).call_and_ladj(z))
        optimizer.step()
    transform = flow.eval()(context)
    out, jacobian = jacobian_of(transform, z[0])
    assert_ladj(transform.call_and_ladj(z[0])[1], jacobian)
    change = (out - z[0]).abs().max()
    assert 1e-2 < change < 20 if settings["num_transforms"] else change == 0
    single = copy.deepcopy(flow).float()(context.float()).call_and_ladj(z[0].float())
    inputs = [z, context, *flow.parameters()]
    num_operations = DEPTH * NUM_OPERATIONS
    assert_agrees(
        single, lambda: flow(context).call_and_ladj(z[0]), inputs, num_operations=num_operations, dtype=torch.float32
    )


def enlarge(flow, size):
    """Add noise of that size to every parameter but logarithms of scales: exp(1e3) is not a number in any data type."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if not name.endswith("log_scale"):
                parameter += size * torch.randn(parameter.shape, generator=noise, dtype=torch.float64).to(parameter)
    return flow


@every_flow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_parameters_of_a_thousand(family, settings, dtype, training):
    """All of them. Networks get one transformation and the smallest latent: several of them would multiply their
    weights to numbers that float32 does not have.
    """
    depths = [settings["num_transforms"], DEPTH] if family in WITHOUT_NETWORKS else [min(1, settings["num_transforms"])]
    dim = 5 if family in WITHOUT_NETWORKS else 2
    latent_shape = (2, 1, 1) if "map_shape" in settings else (dim,)
    for depth in depths:
        flow = make_flow(family, settings | {"num_transforms": depth}, latent_shape).to(dtype).train(training)
        enlarge(flow, 1e3)
        z = random(0, 4, BATCH, dim).to(dtype).requires_grad_()
        out, ladj = flow(context_for(flow).to(dtype)).call_and_ladj(z)
        assert out.isfinite().all() and ladj.isfinite().all()
        backward_of_random_loss(out, ladj)
        for value in (z, *flow.parameters()):
            assert value.grad is not None and value.grad.isfinite().all()


@every_flow
@pytest.mark.parametrize("dim", [1, 2, 3, 41])
def test_any_size_of_the_latent(family, settings, dim):
    """Either the contract holds, or the settings are refused in words."""
    settings = settings | {"num_transforms": min(2, settings["num_transforms"])}
    num_columns = settings.get("orthogonalization", {}).get("num_ortho", 1)
    if dim < num_columns or (dim < 2 and family in NEED_TWO_DIMENSIONS):
        with pytest.raises(ValueError, match=r"expected .*at (least|most) \d.*, got .*\d"):
            make_flow(family, settings, row_of(settings, dim))
        return
    flow = perturb(make_flow(family, settings, row_of(settings, dim)), std=0.2).eval()
    transform, z = flow(context_for(flow)), 0.5 * random(1, BATCH, dim)  # inside the interval of splines
    out, ladj = transform.call_and_ladj(z)
    assert out.shape == z.shape and ladj.shape == (BATCH,)
    assert ((out - z).abs() > tolerance(1)).all() or not settings["num_transforms"]
    assert_ladj(ladj, jacobian_of(transform, z)[1])
    if transform.has_inverse:
        assert_round_trip(transform, z)


@every_flow
@pytest.mark.parametrize("sample_shape", [(), (2,)])
@pytest.mark.parametrize("training", [True, False])
def test_no_image_gives_no_gradient_and_has_an_inverse(family, settings, sample_shape, training):
    """A worker without images still takes part in the sum of gradients over workers: with zeros for all of them."""
    flow = perturb(make_flow(family, settings, row_of(settings, 4))).train(training)
    z = torch.zeros(*sample_shape, 0, 4).double().requires_grad_()
    transform = flow(context_for(flow, batch=0))
    backward_of_random_loss(*transform.call_and_ladj(z))
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in flow.parameters())
    if transform.has_inverse:
        back, ladj = transform.inv_and_ladj(z)
        assert back.shape == z.shape and ladj.shape == z.shape[:-1]


@every_flow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_around_changes_neither_results_nor_gradients(family, settings, dtype):
    """The data type is that of the input; in bfloat16 ladj would be off by 1 %."""
    flow = perturb(make_flow(family, settings, row_of(settings, 4))).eval().to(dtype)
    results = []
    for enabled in (False, True):
        flow.zero_grad()
        z = random(0, 2, BATCH, 4).to(dtype).requires_grad_()
        transform = flow(context_for(flow).to(dtype))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out, ladj = transform.call_and_ladj(z)
        backward_of_random_loss(out, ladj)
        results.append([out, ladj, z.grad, *(parameter.grad for parameter in flow.parameters())])
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype == dtype and torch.equal(found, expected)
