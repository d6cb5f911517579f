"""Radial flows against the textbook: the map, its inverse, and the edge of what is invertible."""

import pytest
import torch
from examples import random
from tolerances import assert_agrees, assert_close, assert_round_trip

from flowvae.model.flows.radial import RadialFlow, RadialTransform, radius_before


def positive(seed, *shape):
    return 0.5 + random(seed, *shape).abs()


def textbook(z, centre, alpha, beta):
    """arXiv:1505.05770, equation 14, and the log-determinant by the derivative of h(r) = 1 / (alpha + r)."""
    r = (z - centre).norm()
    h = 1 / (alpha + r)
    ladj = (len(z) - 1) * torch.log(1 + beta * h) + torch.log(1 + beta * h - beta * r / (alpha + r) ** 2)
    return z + beta * h * (z - centre), ladj


@pytest.mark.parametrize("amortised", [True, False])
def test_textbook(amortised):
    groups = (3,) if amortised else ()
    centre, alpha, m, z = random(0, *groups, 2, 4), positive(1, *groups, 2), positive(2, *groups, 2), random(3, 5, 3, 4)
    expected = []
    for sample in range(5):
        for image in range(3):
            point, total = z[sample, image], 0
            for k in range(2):
                own = (image, k) if amortised else (k,)
                point, ladj = textbook(point, centre[own], alpha[own], alpha[own] * (m[own] - 1))
                total = total + ladj
            expected.append((point, total))
    out, ladj = (torch.stack(results).unflatten(0, (5, 3)) for results in zip(*expected, strict=True))
    inputs = [centre, alpha, m, z]
    assert_agrees((out, ladj), lambda: RadialTransform(centre, alpha, m).call_and_ladj(z), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [1e-6, 1.0, 1e3])
def test_contractions_and_expansions_are_inverted(m, dtype):
    """Also at the centre, where the map is its steepest or its flattest: the slope there is m."""
    centre, alpha = random(0, 1, 3).to(dtype), torch.tensor([2.0], dtype=dtype)
    transform = RadialTransform(centre, alpha, torch.tensor([m], dtype=dtype))
    z = torch.cat((centre, random(1, 6, 3).to(dtype)))
    out, ladj = transform.call_and_ladj(z)
    assert_close(ladj[0], 3 * torch.tensor(m, dtype=torch.float64).log().to(dtype))
    back, inverse_ladj = transform.inv_and_ladj(out)
    assert back.isfinite().all() and inverse_ladj.isfinite().all()
    if dtype == torch.float64:
        assert_round_trip(transform, z[1:])


def test_radius_without_cancellation():
    """Where the radius is far smaller than alpha m, the textbook's root is a difference of equal numbers."""
    radius, alpha, alpha_m = (torch.tensor([value], dtype=torch.float64) for value in (1e-12, 1.0, 1e6))
    assert_close(radius_before(radius, alpha, alpha_m) * 1e18, radius / alpha_m * 1e18)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_extreme_parameters_stay_finite(size, dtype):
    flow = RadialFlow((5,), 0, num_transforms=80, amortised=False).to(dtype)
    with torch.no_grad():
        flow.bias.mul_(size).add_(size * random(0, *flow.bias.shape).to(dtype))
    z = (size * random(1, 4, 5)).to(dtype)
    out, ladj = flow(torch.zeros(4, 0)).call_and_ladj(z)
    (out.sum() + ladj.sum()).backward()
    assert out.isfinite().all() and ladj.isfinite().all() and flow.bias.grad.isfinite().all()


def test_one_dimension():
    flow = RadialFlow((1,), 0, num_transforms=2, amortised=False).double()
    with torch.no_grad():
        flow.bias.add_(random(0, *flow.bias.shape))
    assert_round_trip(flow(torch.zeros(6, 0)), random(1, 6, 1))
