"""Sylvester flows: the textbook, the three forms of Q, and the edge of what is invertible."""

import math

import pytest
import torch
from examples import make_flow, perturb, random
from tolerances import assert_agrees, assert_close, assert_ladj, jacobian_of, tolerance
from torch.nn.functional import softplus

from flowvae.model.flows.orthogonal import Reflections, Reversals, build_basis
from flowvae.model.flows.planar import PlanarTransform
from flowvae.model.flows.sylvester import SylvesterTransform, one_plus_product
from flowvae.model.networks import SOFTPLUS_INV_ONE

D = 5
FORMS = {
    "orthogonal": {"num_ortho": 3},
    "householder": {"num_householder": 4},
    "triangular": {},
}
every_form = pytest.mark.parametrize("form", FORMS)


def basis_of(form):
    return build_basis(D, name=form, **FORMS[form])


def matrices(columns, num_transforms, num_columns):
    """Q of every transformation and group, shape (K, groups, D, M)."""
    eye = torch.eye(num_columns, dtype=torch.float64)[None]
    return torch.stack([columns.times(k, eye).mT for k in range(num_transforms)])


def parameters_of(basis, num_transforms, groups):
    """Random vectors of Q, square, q and b."""
    m = basis.num_columns
    shapes = [(basis.num_vectors, D), (m, m), (1, m), (1, m)]
    return [random(seed, num_transforms, groups, *shape) for seed, shape in enumerate(shapes)]


def textbook(z, matrix, square, q, b):
    """arXiv:1803.05649: z + Q R tanh(R~ Q'z + b) for one point, and the sum of ln(1 + tanh' r_ii r~_ii)."""
    r = square.triu(1) + square.diagonal().tanh().diag()
    r_tilde = square.tril(-1).mT + q[0].tanh().diag()
    a = r_tilde @ matrix.mT @ z + b[0]
    factors = 1 + (1 - a.tanh() ** 2) * r.diagonal() * r_tilde.diagonal()
    return z + matrix @ r @ a.tanh(), factors.log().sum()


@every_form
@pytest.mark.parametrize("groups", [1, 3])
def test_textbook(form, groups):
    basis = basis_of(form)
    parameters, z = parameters_of(basis, 2, groups), random(9, 4, 3, D)
    columns = basis.columns(parameters[0])
    explicit = matrices(columns, 2, basis.num_columns).expand(2, groups, -1, -1)
    expected = []
    for sample in range(4):
        for image in range(3):
            point, total = z[sample, image], 0
            for k in range(2):
                own = (k, image % groups)
                point, ladj = textbook(point, explicit[own], *(value[own] for value in parameters[1:]))
                total = total + ladj
            expected.append((point, total))
    out, ladj = (torch.stack(results).unflatten(0, (4, 3)) for results in zip(*expected, strict=True))

    def found():
        return SylvesterTransform(basis.columns(parameters[0]), *parameters[1:]).call_and_ladj(z)

    assert_agrees((out, ladj), found, [z, *parameters])


@every_form
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_columns_are_orthonormal(form, size):
    basis = basis_of(form)
    q = matrices(basis.columns(size * parameters_of(basis, 3, 2)[0]), 3, basis.num_columns)
    assert_close(q.mT @ q, torch.eye(basis.num_columns).double().expand(3, q.shape[1], -1, -1), size=float(D))


@every_form
def test_columns_are_orthonormal_also_where_reflections_repeat(form):
    """Twice the same reflection is none at all, and a vector of zeros reflects nothing."""
    basis = basis_of(form)
    vectors = random(0, 1, 1, 1, D).expand(1, 1, basis.num_vectors, D).clone()
    vectors[..., 2:3, :] = 0
    q = matrices(basis.columns(vectors), 1, basis.num_columns)
    assert_close(q.mT @ q, torch.eye(basis.num_columns).double()[None, None], size=float(D))
    if form == "orthogonal":
        assert_close(q[0, 0], torch.eye(D).double()[:, :3], size=float(D))


@every_form
def test_both_products_are_of_the_same_matrix(form):
    basis = basis_of(form)
    vectors, z = parameters_of(basis, 2, 3)[0], random(9, 3, 4, D)
    for k in range(2):
        matrix = matrices(basis.columns(vectors), 2, basis.num_columns)[k]
        assert_agrees(z @ matrix, lambda k=k: basis.columns(vectors).transpose_times(k, z), [vectors, z])


@pytest.mark.parametrize("num_columns", [1, 3, D])
def test_columns_are_those_of_lapack(num_columns):
    """geqrf returns the reflections of which the first columns of the product are those of a random Q, up to signs."""
    packed, tau = torch.geqrf(random(0, D, num_columns))
    vectors = (packed.tril(-1) + torch.eye(D, num_columns)).mT * (tau != 0)[:, None]  # tau = 0 reflects nothing
    q = matrices(Reflections(vectors[None, None], num_columns), 1, num_columns)[0, 0]
    assert_close(q, torch.linalg.householder_product(packed, tau), size=float(D))


def test_triangular_form_reverses_the_elements_in_turns():
    z = random(0, 1, 3, D)
    kept, reversed_ = (Reversals().times(k, z) for k in range(2))
    assert torch.equal(kept, z) and torch.equal(reversed_, z.flip(-1)) and torch.equal(Reversals().times(2, z), z)


@pytest.mark.parametrize("dim", [1, D])
def test_one_column_is_a_planar_map(dim):
    """With w = r~ q and u_hat = r q; the constraint of a planar flow is inverted here."""
    vectors, square, q, b = random(0, 1, 1, 1, dim), random(1, 1, 1, 1, 1), random(2, 1, 1, 1, 1), random(3, 1, 1, 1, 1)
    z, column = random(4, 6, 2, dim), matrices(Reflections(vectors, 1), 1, 1)[0, 0, :, 0]
    r, r_tilde = square.tanh(), q.tanh()
    w_dot_u = (r * r_tilde + 1).expm1().log() - SOFTPLUS_INV_ONE
    assert_close(softplus(w_dot_u + SOFTPLUS_INV_ONE), r * r_tilde + 1)
    w, u = (r_tilde * column).view(1, dim), (w_dot_u / r_tilde * column).view(1, dim)
    expected = PlanarTransform(w, u, b.view(1)).call_and_ladj(z)

    def found():
        return SylvesterTransform(Reflections(vectors, 1), square, q, b).call_and_ladj(z)

    assert_agrees(expected, found, [vectors, square, q, b, z])


@pytest.mark.parametrize(("num_ortho", "dim"), [(2, 1), (6, 5)])
def test_more_columns_than_dimensions_are_refused(num_ortho, dim):
    with pytest.raises(ValueError, match=f"num_ortho of at most {dim}, the dimensions of the latent, got {num_ortho}"):
        flow_with("orthogonal", dim, num_ortho=num_ortho)


def flow_with(form, dim=D, *, num_transforms=2, **settings):
    orthogonalization = {"name": form} | (settings or FORMS[form])
    settings = {"num_transforms": num_transforms, "orthogonalization": orthogonalization, "amortised": True}
    return make_flow("sylvester", settings, (dim,))


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_starts_exactly_as_the_identity_but_random_inside(form, dtype):
    """R = 0 adds exactly 0, for any context; what is multiplied by R differs between transformations."""
    flow, z = flow_with(form, num_transforms=80).to(dtype), random(0, 4, D).to(dtype)
    transform = flow(random(1, 4, 3).to(dtype))
    out, ladj = transform.call_and_ladj(z)
    assert torch.equal(out, z)
    assert_close(ladj, torch.zeros_like(ladj), size=10.0)
    upper_tilde, diagonal_tilde = transform.r_tilde
    assert (diagonal_tilde[0] != diagonal_tilde[1]).all() and (upper_tilde[0] != upper_tilde[1]).any()


def log_one_plus_product(p, q):
    """ln(1 + tanh p tanh q) = ln(cosh(p + q) / (cosh p cosh q)), for large |p| and |q| too."""
    log_cosh = lambda x: abs(x) + math.log1p(math.exp(-2 * abs(x))) - math.log(2)  # noqa: E731
    return log_cosh(p + q) - log_cosh(p) - log_cosh(q)


FOLDS = [(3, -3, torch.float32), (20, -20, torch.float32), (-9, 30, torch.float32), (150, -151, torch.float64)]


@pytest.mark.parametrize(("p", "q", "dtype"), [*FOLDS, (0, 5, torch.float32), (7, 8, torch.float64)])
def test_one_plus_product_does_not_cancel(p, q, dtype):
    """1 + tanh(20) tanh(-20) is 0 in both data types, and about e^-38.6; the gradients are tanh(p + q) - tanh(p)."""
    inputs = [torch.tensor([float(value)], dtype=dtype, requires_grad=True) for value in (p, q)]
    log = one_plus_product(*inputs).log()
    log.backward()
    assert_close(log, torch.tensor([log_one_plus_product(p, q)], dtype=dtype), size=float(abs(p) + abs(q) + 1))
    for value in inputs:
        expected = torch.tensor([math.tanh(p + q) - math.tanh(value.item())], dtype=dtype)
        assert_close(value.grad, expected, size=float(abs(p) + abs(q) + 1))


@pytest.mark.parametrize(("p", "q", "dtype"), FOLDS)
def test_a_map_that_almost_folds(p, q, dtype):
    """Where a = 0 ln|det| is ln(1 + r r~) for each of the M columns, and it can still be trained."""
    square, q_row = float(p) * torch.eye(3, dtype=dtype)[None, None], torch.full((1, 1, 1, 3), float(q), dtype=dtype)
    square.requires_grad_()
    columns = Reflections(random(0, 1, 1, 3, D).to(dtype), 3)
    transform = SylvesterTransform(columns, square, q_row, torch.zeros(1, 1, 1, 3, dtype=dtype))
    ladj = transform.call_and_ladj(torch.zeros(2, D, dtype=dtype))[1]
    expected = 3 * log_one_plus_product(p, q)
    assert_close(ladj, torch.full_like(ladj, expected), size=3.0 * (abs(p) + abs(q) + 1))
    ladj[0].backward()
    slopes = torch.full((3,), math.tanh(p + q) - math.tanh(p), dtype=dtype)
    assert_close(square.grad.diagonal(dim1=-2, dim2=-1)[0, 0], slopes, size=float(abs(p) + abs(q) + 1))


@every_form
@pytest.mark.parametrize("size", [1.0, 2.0, 4.0])
def test_ladj_next_to_the_fold_is_that_of_autograd(form, size):
    """Where a is about 0. Every column of Q contributes a factor of about 4 exp(-2 size)."""
    basis = basis_of(form)
    vectors, square, q, b = parameters_of(basis, 1, 1)
    square = 0.1 * square.triu(1) + size * torch.eye(basis.num_columns)
    transform = SylvesterTransform(basis.columns(vectors), square, torch.full_like(q, -size), 1e-3 * b)
    z = 1e-3 * random(5, 3, D)
    ladj = transform.call_and_ladj(z)[1]
    assert (ladj < -0.8 * size * basis.num_columns).all()
    assert_ladj(ladj, jacobian_of(transform, z)[1])


@pytest.mark.parametrize("std", [1.0, 5.0, 50.0])
@pytest.mark.parametrize(
    ("form", "settings"),
    [("orthogonal", {"num_ortho": 1}), ("householder", {"num_householder": 1}), ("triangular", {})],
)
def test_one_dimension_never_turns_back(form, settings, std):
    """The purpose of r r~ > -1."""
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64)[:, None, None]
    for seed in range(10):
        flow = perturb(flow_with(form, 1, num_transforms=3, **settings), std)
        out, ladj = flow(random(seed, 1, flow.context_features)).call_and_ladj(z)
        assert (out.diff(dim=0) >= -tolerance(10.0)).all() and ladj.isfinite().all()
