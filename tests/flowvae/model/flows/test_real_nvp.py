"""Real NVP: masks, bounds, depth and context."""

import copy

import pytest
import torch
from examples import PLAIN, make_flow, perturb, random
from tolerances import assert_close, tolerance
from torch.autograd.functional import jacobian

from flowvae.model.flows.real_nvp import RealNVP


def real_nvp(latent_dim, *, num_transforms=1, context=True, log_scale_bound=2.0, std=0.4):
    settings = {
        "num_transforms": num_transforms,
        "hidden_features": (6,),
        "context": context,
        "log_scale_bound": log_scale_bound,
    }
    return perturb(make_flow("real_nvp", settings | PLAIN, (latent_dim,)), std)


def single_couplings(flow, context):
    """Yield each coupling by itself: the nets of all others return 0, which makes them exact identities."""
    for i in range(len(flow.nets)):
        single = copy.deepcopy(flow)
        for j, net in enumerate(single.nets):
            if j != i:
                net.zero_last()
        yield single(context)


@pytest.mark.parametrize("latent_dim", [2, 3, 5, 8, 9])
def test_masks_alternate(latent_dim):
    flow = real_nvp(latent_dim, num_transforms=3)
    z, first = random(0, 4, latent_dim), latent_dim // 2
    for i, coupling in enumerate(single_couplings(flow, random(1, 4, 3))):
        moved = (coupling.call_and_ladj(z)[0] != z).all(0)
        kept = (coupling.call_and_ladj(z)[0] == z).all(0)
        second_moves = torch.arange(latent_dim) >= first
        expected = second_moves if i % 2 == 0 else ~second_moves
        assert torch.equal(moved, expected) and torch.equal(kept, ~expected)


@pytest.mark.parametrize("num_transforms", [1, 2, 5])
def test_one_transformation_is_a_pair_of_couplings(num_transforms):
    flow = real_nvp(4, num_transforms=num_transforms)
    assert len(flow.nets) == 2 * num_transforms
    assert len({id(parameter) for parameter in flow.parameters()}) == 2 * num_transforms * 5  # nothing is shared


@pytest.mark.parametrize("latent_dim", [0, 1])
def test_nothing_to_couple(latent_dim):
    with pytest.raises(ValueError, match=f"at least 2 dimensions.*got {latent_dim}"):
        RealNVP((latent_dim,), 3, num_transforms=1, hidden_features=(4,), context=True, log_scale_bound=2.0, **PLAIN)


@pytest.mark.parametrize("bound", [0.5, 2.0])
@pytest.mark.parametrize("std", [1.0, 1e3])
def test_log_scales_are_bounded_for_any_weights(bound, std):
    flow = real_nvp(5, log_scale_bound=bound, std=std)
    z = 10 * random(0, 50, 5)
    reached = 0.0
    for coupling in single_couplings(flow, 10 * random(1, 50, 3)):
        slopes = jacobian(lambda points, coupling=coupling: coupling.call_and_ladj(points)[0].sum(0), z)
        log_scale = slopes.diagonal(dim1=0, dim2=2).log()  # (50, 5)
        assert log_scale.abs().max() <= bound + tolerance(1 + bound)
        reached = max(reached, log_scale.abs().max().item())
    assert reached > 0.9 * bound  # otherwise the weights are too small for this test


def test_scales_and_shifts_depend_on_the_kept_block_only():
    flow = real_nvp(4)
    first, _ = single_couplings(flow, random(1, 1, 3))
    matrix = jacobian(lambda point: first.call_and_ladj(point[None])[0][0], random(0, 4))
    assert_close(matrix[:2], torch.eye(4).double()[:2])
    assert (matrix[2:, :2] != 0).all()
    assert torch.equal(matrix[2:, 2:], matrix[2:, 2:].diagonal().diag())


@pytest.mark.parametrize("context", [True, False])
def test_context_on_and_off(context):
    flow = real_nvp(4, context=context)
    assert flow.context_features == (3 if context else 0)
    assert all((net.context is not None) == context for net in flow.nets)
    z = random(0, 2, 4)
    one, other = (flow(random(seed, 2, flow.context_features)).call_and_ladj(z)[0] for seed in (1, 2))
    assert torch.equal(one, other) != context
