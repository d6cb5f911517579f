"""The tolerances of the numeric tests: rounding errors pass, and errors of formulas do not."""

import pytest
import torch
from examples import random
from tolerances import (
    assert_agrees,
    assert_close,
    assert_gradients,
    assert_ladj,
    assert_round_trip,
    assert_sum,
    size_of,
)

from flowvae.model.transforms import Transform


class Linear(Transform):
    """z -> A z, with an error in the inverse."""

    has_inverse = True

    def __init__(self, condition, error=0.0):
        first, _, second = torch.linalg.svd(random(0, 6, 6))
        singular_values = torch.logspace(0, 1, 6, base=condition, dtype=torch.float64)
        self.matrix, self.error = first * singular_values @ second, error

    def _call_and_ladj(self, z):
        return z @ self.matrix.mT, torch.linalg.slogdet(self.matrix)[1].expand(z.shape[:-1])

    def _inv_and_ladj(self, z):
        ladj = -torch.linalg.slogdet(self.matrix)[1].expand(z.shape[:-1])
        return torch.linalg.solve(self.matrix, z[..., None])[..., 0] * (1 + self.error), ladj


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6, 1e9])
def test_errors_of_a_round_trip_grow_with_the_condition(condition):
    z = random(1, 20, 6)
    assert_round_trip(Linear(condition), z)
    with pytest.raises(AssertionError, match="differ by more than rounding"):
        assert_round_trip(Linear(condition, error=1e-11 * condition), z)


def test_log_determinants():
    matrices = random(2, 5, 4, 4)
    matrices[torch.linalg.det(matrices) < 0, 0] *= -1
    ladj = torch.linalg.slogdet(matrices)[1]
    assert_ladj(ladj, matrices)
    with pytest.raises(AssertionError, match="5 of 5 numbers differ"):
        assert_ladj(ladj + 1e-11, matrices)


@pytest.mark.parametrize("wrong", [1 + 1e-12, float("nan"), float("inf")])
def test_wrong_numbers(wrong):
    with pytest.raises(AssertionError, match="1 of 3 numbers differ by more than rounding explains, the worst at 1"):
        assert_close(torch.tensor([1.0, wrong, 1.0], dtype=torch.float64), torch.ones(3).double())


def test_shapes_and_data_types_must_be_the_same():
    with pytest.raises(AssertionError, match=r"shape \(1, 3\), expected \(3,\)"):
        assert_close(torch.ones(1, 3), torch.ones(3))
    with pytest.raises(AssertionError, match=r"torch\.float32, expected torch\.float64"):
        assert_close(torch.ones(3), torch.ones(3).double())
    assert_close(torch.ones(3) / 3, torch.ones(3).double() / 3, dtype=torch.float32)


def test_sums_in_any_order_agree():
    terms = random(3, 100_000).exp() * random(4, 100_000)
    assert_sum(terms.sum(), terms.flip(0).cumsum(0)[-1], terms)
    assert_sum(terms.mean(), terms.sum() / len(terms), terms, mean=True)
    with pytest.raises(AssertionError):
        assert_sum(terms.sum(), terms[1:].sum(), terms)


def test_size_is_the_change_under_relative_errors_and_inputs_are_restored():
    x = torch.tensor([1e6, -1e6]).double().requires_grad_()
    before = x.detach().clone()
    (size,) = size_of(lambda: x.sum(), [x])
    assert 0.1 * 2e6 < size < 10 * 2e6  # that of a sum is sum|terms|
    assert torch.equal(x, before)
    assert_agrees(torch.zeros(()).double() + 1e-9, lambda: x.sum(), [x])


def test_wrong_gradients():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        def backward(ctx, grad):
            return 2 * (1 + error) * grad * ctx.saved_tensors[0]

    x, error = random(5, 3).requires_grad_(), 0.0
    assert_gradients(Square.apply, [x], size=1)
    error = 1e-7
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        assert_gradients(Square.apply, [x], size=1)
