"""Tolerances of the numeric tests, all from one formula.

    tolerance = SAFETY * sqrt(num_operations) * eps * size

eps is the spacing of floating-point numbers around 1. size is the condition of the result: how far it would move, to
first order, if every number that it is computed from moved by its own magnitude. It is sum|terms| for a sum, and
|J||x| for a function of x with Jacobian J, element by element (Higham 2002, Accuracy and Stability of Numerical
Algorithms, sections 1.6, 4.2 and 7.2). Processors order sums differently, fuse products with sums or not, and
approximate exp, log and tanh differently. Every such choice acts like a relative error of about eps in the numbers
that the result is computed from, and so moves the result by about eps * size.

n such errors, as often up as down, add up to about sqrt(n) of them (Higham and Mary 2019, A New Approach to
Probabilistic Rounding Error Analysis, SIAM Journal on Scientific Computing 41(5)). SAFETY covers functions that are
off by several eps, and unlucky signs. Together they are 100 for the models of the tests. The largest error of any test,
with the arithmetic of the oldest and of the newest processor, is 12 eps * size; for the flows only it is 5 eps * size,
for condition numbers from 1 to 1e9.

A formula that is wrong by more than a relative 1e-13 in any of its numbers is found, in float64.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from flowvae.model.transforms import Transform

SAFETY = 10.0
NUM_OPERATIONS = 100  # in a row, from an input to an output of the small models of the tests
KICK = 1024  # eps, by which `size_of` moves inputs: far above rounding, and small enough for a first order
NUM_KICKS = 4
FLOOR = 1.0  # intermediate results of about this size may cancel, as in 1 - tanh(a)^2

Number = Tensor | float
Results = Number | Sequence[Number]


def tolerance(size: Number, *, num_operations: int = NUM_OPERATIONS, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the largest difference from the exact result that rounding explains, in float64.

    Args:
        size: condition of the result, in the unit of the result (see above).
        num_operations: rounded operations in a row, from an input to the result.
        dtype: in which the result was computed.
    """
    return SAFETY * math.sqrt(num_operations) * torch.finfo(dtype).eps * torch.as_tensor(size).detach().double().abs()


def assert_close(
    actual: Results,
    expected: Results,
    *,
    size: Results | None = None,
    num_operations: int = NUM_OPERATIONS,
    dtype: torch.dtype | None = None,
) -> None:
    """Assert that results differ by rounding only, element by element.

    Args:
        actual: a tensor, a number, or a sequence of them.
        expected: the same number of results, of the same shapes.
        size: condition of each result, of a shape that broadcasts. The default, the magnitude of the expected result
            plus FLOOR, is right for products, quotients and sums of terms of one sign.
        num_operations: as in `tolerance`.
        dtype: the less precise data type, if the two were computed in different ones; otherwise they must be the same.
    """
    pairs = list(zip(as_list(actual), as_list(expected), strict=True))
    sizes = [wanted.abs() + FLOOR for _, wanted in pairs] if size is None else as_list(size)
    for (found, wanted), condition in zip(pairs, sizes, strict=True):
        assert found.shape == wanted.shape, f"shape {tuple(found.shape)}, expected {tuple(wanted.shape)}"
        assert dtype or found.dtype == wanted.dtype, f"{found.dtype}, expected {wanted.dtype}"
        _assert_within(found, wanted, tolerance(condition, num_operations=num_operations, dtype=dtype or found.dtype))


def _assert_within(actual: Tensor, expected: Tensor, bound: Tensor) -> None:
    bound, error = bound.expand(actual.shape), (actual.double() - expected.double()).abs()
    wrong = ~(error <= bound)  # NaN counts as wrong
    if wrong.any():
        worst = torch.where(wrong, error / bound, 0).nan_to_num(torch.inf, torch.inf).argmax()
        found, wanted, off, allowed = (value.flatten()[worst].item() for value in (actual, expected, error, bound))
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} numbers differ by more than rounding explains, the worst at "
            f"{int(worst)}: {found!r}, expected {wanted!r}, difference {off:.2e}, tolerance {allowed:.2e}"
        )


def assert_agrees(
    actual: Results,
    compute: Callable[[], Results],
    inputs: Sequence[Tensor],
    *,
    num_operations: int = NUM_OPERATIONS,
    dtype: torch.dtype | None = None,
) -> None:
    """Assert that `actual` is what `compute()` returns, up to rounding, for the condition that `size_of` measures.

    Args:
        actual: the results of another implementation, or of the same one on other batches.
        compute: a function of no arguments that reads `inputs` at each call.
        inputs: see `size_of`.
        num_operations: as in `tolerance`.
        dtype: as in `assert_close`.
    """
    expected = as_list(compute())
    sizes = _sizes(expected, compute, inputs)
    assert_close(actual, expected, size=sizes, num_operations=num_operations, dtype=dtype)


def assert_sum(actual: Number, expected: Number, terms: Tensor, *, mean: bool = False) -> None:
    """Assert that `actual` and `expected` are both the sum of all `terms`, or with `mean` their mean.

    Whatever the order, a sum of n terms is off by at most n eps sum|terms| (Higham 2002, section 4.2), and typically
    by sqrt(n) eps sum|terms|. The terms themselves are results of up to NUM_OPERATIONS operations.
    """
    size = terms.detach().abs().double().sum() / (terms.numel() if mean else 1)
    assert_close(actual, expected, size=size, num_operations=NUM_OPERATIONS + terms.numel())


def size_of(compute: Callable[[], Results], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Measure the condition of what `compute()` returns with respect to its inputs, element by element.

    Every number of the inputs is multiplied by 1 + KICK eps N(0, 1), NUM_KICKS times. The root of the mean squared
    change of a result, divided by KICK eps, is |J||x| for errors of random signs. The magnitude of the result is added
    for its last rounding, and FLOOR. The condition holds for every data type, whichever the inputs have.

    Args:
        compute: a function of no arguments that reads `inputs` at each call.
        inputs: float tensors, which are changed in place and restored: all that is rounded on the way to the result.
            Numbers that are exact, such as pixels, need not be among them.
    """
    return _sizes(as_list(compute()), compute, inputs)


def _sizes(before: list[Tensor], compute: Callable[[], Results], inputs: Sequence[Tensor]) -> list[Tensor]:
    noise, kick = torch.Generator().manual_seed(0), KICK * max(torch.finfo(value.dtype).eps for value in inputs)
    squares = [torch.zeros_like(value, dtype=torch.float64) for value in before]
    for _ in range(NUM_KICKS):
        with kicked(inputs, kick, noise):
            for square, start, moved in zip(squares, before, as_list(compute()), strict=True):
                square += ((moved - start).double() / kick).square() / NUM_KICKS
    return [square.sqrt() + start.double().abs() + FLOOR for square, start in zip(squares, before, strict=True)]


@contextmanager
def kicked(inputs: Sequence[Tensor], kick: float, noise: torch.Generator) -> Iterator[None]:
    """Multiply every number of the inputs by 1 + kick N(0, 1) inside the context."""
    kept = [value.detach().clone() for value in inputs]
    with torch.no_grad():
        for value in inputs:
            value *= 1 + kick * torch.randn(value.shape, generator=noise, dtype=torch.float64).to(value.dtype)
    try:
        yield
    finally:
        with torch.no_grad():
            for value, start in zip(inputs, kept, strict=True):
                value.copy_(start)


def assert_gradients(function: Callable[..., Results], inputs: Sequence[Tensor], *, size: float) -> None:
    """Assert that the gradients of `function` at float64 inputs, by autograd, are those of central differences.

    With steps of h = eps^(1/3), rounding makes a difference quotient wrong by eps size / h = eps^(2/3) size for each
    operation in a row, and the third derivative by h^2 / 6 = eps^(2/3) / 6 of it. So the tolerance, 100 times
    eps^(2/3) size, allows third derivatives of 600 times `size`.

    Args:
        function: of the inputs.
        inputs: tensors that require gradients.
        size: of the results of `function` and of their derivatives.
    """
    step = torch.finfo(torch.float64).eps ** (1 / 3)
    allowed = tolerance(size).item() / step
    assert torch.autograd.gradcheck(function, tuple(inputs), eps=step, atol=allowed, rtol=allowed)


def assert_round_trip(transform: Transform, z: Tensor) -> None:
    """Assert that f^-1(f(z)) = z and f(f^-1(z)) = z, for an f that maps every point of a batch by itself.

    f(z) is off by eps (|J||z| + |f(z)|) times the number of roundings, and f^-1 multiplies that by |J^-1|. So the size
    of f^-1(f(z)) is |J^-1| (|J||z| + |f(z)|) + |z|, in which |J^-1||J| is the componentwise condition number of the
    Jacobian (Higham 2002, section 7.2), never above the ratio of the extreme singular values times D. For f(f^-1(z))
    J is the Jacobian at x = f^-1(z), and the size |J| (|J^-1||z| + |x|) + |z|.
    """
    z = z.detach()
    out, jacobian = jacobian_of(transform, z)
    size = product(jacobian.inverse(), product(jacobian, z) + out.abs()) + z.abs()
    assert_close(transform.inv(out), z, size=size)
    x = transform.inv(z).detach()
    out, jacobian = jacobian_of(transform, x)
    size = product(jacobian, product(jacobian.inverse(), z) + x.abs()) + z.abs()
    assert_close(out, z, size=size)


def assert_ladj(ladj: Tensor, jacobian: Tensor) -> None:
    """Assert that `ladj` is ln|det| of the Jacobians, which have a positive determinant.

    An error dJ changes ln|det| by tr(J^-1 dJ), so the size of ln|det| is tr(|J^-1||J|): D if J is diagonal, and never
    above D times the ratio of the extreme singular values. LU decomposition is backward stable, so slogdet adds as
    much. The sum of log-scales in `ladj` adds its own magnitude.

    Args:
        ladj: shape (*shape,).
        jacobian: shape (*shape, D, D).
    """
    sign, expected = torch.linalg.slogdet(jacobian)
    assert (sign == 1).all()
    condition = (jacobian.inverse().abs() * jacobian.mT.abs()).sum((-2, -1))
    assert_close(ladj, expected, size=condition + expected.abs())


def jacobian_of(transform: Transform, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return f(z), shape (*shape, D), and the Jacobian of f at every point, shape (*shape, D, D), by autograd."""
    z = z.detach().requires_grad_()
    out = transform.call_and_ladj(z)[0]
    rows = [torch.autograd.grad(out[..., i].sum(), z, retain_graph=True)[0] for i in range(z.shape[-1])]
    return out.detach(), torch.stack(rows, dim=-2)


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """|matrix| |vector|, batched."""
    return (matrix.abs() @ vector.abs()[..., None])[..., 0]


def as_list(results: Results) -> list[Tensor]:
    """Tensors without graphs, one per result, on the CPU."""
    each = [results] if isinstance(results, Tensor | float | int) else results
    return [
        value.detach().cpu() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        for value in each
    ]
