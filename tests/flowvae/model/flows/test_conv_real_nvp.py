"""Convolutional Real NVP: masks, squeeze, the dimensions that a coupling moves, and valid map shapes."""

import copy

import pytest
import torch
from examples import CONTEXT_FEATURES, PLAIN, make_flow, perturb, random
from tolerances import assert_agrees, tolerance

from flowvae.model.flows.conv_real_nvp import ConvNet, ConvRealNVP

SETTINGS = PLAIN | {
    "num_transforms": 1,
    "map_shape": None,
    "hidden_channels": 4,
    "num_blocks": 1,
    "max_side": None,
    "context": True,
    "log_scale_bound": 2.0,
}


def flow_on(latent_shape, **changes):
    return perturb(make_flow("conv_real_nvp", SETTINGS | changes, latent_shape))


def single_couplings(flow, context):
    """Yield each coupling by itself: the last layers of all others are 0, which makes them exact identities."""
    for i in range(len(flow.nets)):
        single = copy.deepcopy(flow)
        for j, net in enumerate(single.nets):
            if j != i:
                for value in net.blocks[-1].parameters():
                    torch.nn.init.zeros_(value)
        yield single(context)


def moved_by(coupling, latent_shape):
    z = random(0, 4, *latent_shape)
    change = (coupling.call_and_ladj(z.flatten(1))[0] != z.flatten(1)).all(0)
    return change.view(latent_shape)


def test_a_transformation_is_a_checkerboard_pair_and_a_pair_of_squeezed_channels():
    """On one channel of 4 x 4: the colours, then the rows of each square of 2 x 2."""
    flow = flow_on((1, 4, 4))
    row, column = torch.arange(4)[:, None], torch.arange(4)
    white, lower = (row + column) % 2 == 1, (row % 2 == 1).expand(4, 4)
    expected = [white, ~white, lower, ~lower]
    moved = [moved_by(coupling, (1, 4, 4))[0] for coupling in single_couplings(flow, random(1, 4, 3))]
    assert len(moved) == 4
    assert all(torch.equal(*pair) for pair in zip(moved, expected, strict=True))


@pytest.mark.parametrize(
    ("latent_shape", "count"), [((1, 3, 3), 2), ((2, 3, 3), 4), ((2, 1, 1), 2), ((1, 1, 2), 2), ((3, 2, 2), 4)]
)
def test_pairs_with_nothing_to_couple_are_skipped(latent_shape, count):
    """An odd side is not squeezed; one channel has no channel-wise pair, one position no checkerboard."""
    flow = flow_on(latent_shape)
    assert len(flow.nets) == count
    moved = [moved_by(coupling, latent_shape) for coupling in single_couplings(flow, random(1, 4, 3))]
    for first, second in zip(moved[::2], moved[1::2], strict=True):
        assert (first ^ second).all() and first.any() and second.any()


@pytest.mark.parametrize(("max_side", "sizes"), [(8, (4, 8)), (4, (2, 4)), (2, (1, 2)), (None, (4, 8))])
def test_large_maps_are_squeezed(max_side, sizes):
    """The nets see smaller maps with more channels; each transformation still changes every dimension, and inverts."""
    shape = (3, 4, 8)
    flow, z = flow_on(shape, max_side=max_side), random(0, 4, 96)
    seen = []
    flow.nets[0].first.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape[-2:])))
    transform = flow(random(1, 4, CONTEXT_FEATURES))
    out, ladj = transform.call_and_ladj(z)
    assert seen == [sizes]
    moved = torch.stack([moved_by(coupling, shape) for coupling in single_couplings(flow, random(1, 4, 3))])
    assert moved.any(0).all()
    assert_agrees((z, -ladj), lambda: transform.inv_and_ladj(out), [out, *flow.parameters()])
    jacobian = torch.func.jacrev(lambda one: flow(random(1, 4, CONTEXT_FEATURES)[:1]).call_and_ladj(one[None])[0][0])(
        z[0]
    )
    torch.testing.assert_close(ladj[0], jacobian.slogdet().logabsdet, rtol=1e-9, atol=0)


def test_a_map_that_cannot_be_squeezed():
    with pytest.raises(ValueError, match="max_side: 4: a map of 6 x 10 cannot be squeezed by 4"):
        flow_on((2, 6, 10), max_side=4)


@pytest.mark.parametrize("num_transforms", [1, 3])
def test_nothing_is_shared(num_transforms):
    flow = flow_on((2, 4, 4), num_transforms=num_transforms)
    assert len(flow.nets) == 4 * num_transforms
    names = [name for name, _ in flow.named_parameters(remove_duplicate=False)]
    assert len(names) == len(list(flow.parameters()))


def test_s_and_t_are_convolutions():
    """Away from the border, s and t of a shifted map are the shifted s and t."""
    net = perturb(ConvNet(1, 2, (11, 11), 4, 1, 0, weight_norm=False, batch_norm=False).double())
    z = random(0, 1, 1, 11, 11)
    shifted = z.roll(1, -1)
    assert_agrees(net(shifted, None)[..., 5, 6], lambda: net(z, None)[..., 5, 5], [z, *net.parameters()])


@pytest.mark.parametrize("context", [True, False])
def test_context_on_and_off(context):
    flow = flow_on((1, 4, 4), context=context)
    assert flow.context_features == (CONTEXT_FEATURES if context else 0)
    assert all((net.context is not None) == context for net in flow.nets)


@pytest.mark.parametrize("latent_shape", [(16,), (4, 4), (4, 2, 2)])
def test_any_latent_can_be_reshaped_to_a_map(latent_shape):
    torch.manual_seed(0)
    flow = perturb(ConvRealNVP(latent_shape, CONTEXT_FEATURES, **SETTINGS | {"map_shape": (1, 4, 4)}).double())
    expected, z, context = flow_on((1, 4, 4)), random(0, 3, 16), random(1, 3, CONTEXT_FEATURES)
    inputs = [z, context, *expected.parameters()]
    assert_agrees(flow(context).call_and_ladj(z), lambda: expected(context).call_and_ladj(z), inputs)


@pytest.mark.parametrize(
    ("latent_shape", "map_shape", "message"),
    [
        ((16,), None, r"shape \(channels, height, width\).*got \(16,\) and no map_shape"),
        ((16,), (1, 4, 5), r"map_shape of 16 numbers.*got \(1, 4, 5\), which has 20"),
        ((1, 1, 1), None, r"at least 2 numbers.*got \(1, 1, 1\)"),
    ],
)
def test_invalid_map_shapes(latent_shape, map_shape, message):
    with pytest.raises(ValueError, match=message):
        ConvRealNVP(latent_shape, CONTEXT_FEATURES, **SETTINGS | {"map_shape": map_shape})


@pytest.mark.parametrize("std", [1.0, 1e3])
def test_log_scales_are_bounded_for_any_weights(std):
    flow = perturb(make_flow("conv_real_nvp", SETTINGS | {"log_scale_bound": 0.5}, (1, 4, 4)), std)
    z = 10 * random(0, 50, 16)
    for coupling in single_couplings(flow, 10 * random(1, 50, 3)):
        assert coupling.call_and_ladj(z)[1].abs().max() <= 0.5 * 8 + tolerance(0.5 * 8)
