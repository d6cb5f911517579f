"""Householder flows: products of reflections."""

import pytest
import torch
from examples import make_flow, perturb, random
from tolerances import assert_agrees, assert_close

from flowvae.model.flows.householder import HouseholderFlow, HouseholderTransform


def matrix_of(transform, dim):
    """The matrix A of z -> A z, for one image."""
    return transform.call_and_ladj(torch.eye(dim, dtype=torch.float64)[:, None])[0][:, 0].mT


def test_reflections_are_those_of_the_textbook():
    v = torch.nn.functional.normalize(random(0, 2, 5), dim=-1)
    first, second = (torch.eye(5).double() - 2 * torch.outer(row, row) for row in v)
    assert_agrees(second @ first, lambda: matrix_of(HouseholderTransform(v), 5), [v])


def test_a_flow_is_a_rotation():
    """Orthogonal, with determinant 1, and not the identity."""
    flow = perturb(make_flow("householder", {"num_transforms": 3, "amortised": False}, (6,)))
    matrix = matrix_of(flow(torch.zeros(1, 0)), 6)
    assert_close(matrix @ matrix.mT, torch.eye(6).double(), size=6.0)
    assert_close(torch.linalg.det(matrix), torch.ones(()).double(), size=36.0)
    assert (matrix - torch.eye(6).double()).abs().max() > 0.1


def test_a_vector_of_zeros_reflects_nothing():
    flow = HouseholderFlow((3,), 0, num_transforms=2, amortised=False).double()
    with torch.no_grad():
        flow.bias.zero_()
    z = random(0, 4, 3)
    out, _ = flow(torch.zeros(4, 0)).call_and_ladj(z)
    out.sum().backward()
    assert torch.equal(out, z) and flow.bias.grad.isfinite().all()


def test_one_dimension_is_refused():
    with pytest.raises(ValueError, match=r"at least 2 dimensions for householder .*got 1"):
        HouseholderFlow((1,), 3, num_transforms=1, amortised=True)
