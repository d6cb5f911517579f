"""Planar flows against the textbook: the constraint on u, the joint evaluation, the hand-written gradient."""

import math

import pytest
import torch
from examples import make_flow, perturb, random
from tolerances import assert_agrees, assert_close, assert_gradients, tolerance
from torch.nn.functional import softplus

from flowvae.model.flows.planar import PlanarFlow, PlanarRecurrence, PlanarTransform, invertible_u

SHIFT = math.log(math.e - 1)


def dot(a, b):
    return (a * b).sum(-1)


def directions(num, latent_dim, size=1.0, seed=0):
    """Return random vectors of length `size`."""
    return size * torch.nn.functional.normalize(random(seed, num, latent_dim), dim=-1)


@pytest.mark.parametrize("w_size", [1e-2, 1.0, 1e3])
@pytest.mark.parametrize("u_size", [1e-3, 1.0, 1e2, 1e4])
def test_u_keeps_the_map_invertible(w_size, u_size):
    w, u = directions(200, 5, w_size), directions(200, 5, u_size, seed=1)
    u[0] = -w[0] / w_size * u_size  # the worst direction
    u_hat, one_plus_dot = invertible_u(w, u)
    assert u_hat.isfinite().all() and (one_plus_dot > 0).all()
    assert (dot(w, u_hat) >= -1 - tolerance(dot(w.abs(), u.abs() + u_hat.abs()))).all()


def test_u_is_moved_along_w_by_the_squared_norm():
    """With ||w|| in place of its square, with log(1 + softplus), or without the shift, one of these fails."""
    w, u = directions(100, 4, 3.0), directions(100, 4, 2.0, seed=1)
    (u_hat, one_plus_dot), t = invertible_u(w, u), dot(w, u)
    assert_close(one_plus_dot, softplus(t + SHIFT), size=dot(w.abs(), u.abs()) + 1)
    assert_close(dot(w, u_hat), softplus(t + SHIFT) - 1, size=dot(w.abs(), u.abs() + u_hat.abs()) + 1)

    def along():
        t = dot(w, u)
        return u + ((softplus(t + SHIFT) - 1 - t) / w.square().sum(-1))[:, None] * w

    assert_agrees(u_hat, along, [w, u])
    across = u - (t / w.square().sum(-1))[:, None] * w
    assert_close(dot(u_hat, across), dot(u, across), size=dot(u_hat.abs() + u.abs(), across.abs()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("w_size", [1e-3, 1e-2, 1.0, 1e2])
def test_zero_u_is_the_identity(dtype, w_size):
    """u_hat is m(0) w / ||w||^2, in which m(0) = softplus(ln(e - 1)) - 1 cancels to 0."""
    w = directions(50, 6, w_size).to(dtype)
    u_hat = invertible_u(w, torch.zeros_like(w))[0]
    assert_close(u_hat, torch.zeros_like(w), size=1 / w_size)


@pytest.mark.parametrize("w_size", [1e-6, 1e-2, 1.0])
def test_correction_is_bounded_however_small_w_is(w_size):
    w, u = directions(200, 5, w_size), directions(200, 5, 2.0, seed=1)
    assert ((invertible_u(w, u)[0] - u).norm(dim=-1) <= 2.0 + tolerance(2.0 + 1 / w_size)).all()


def test_zero_w_is_finite():
    w = torch.zeros(3, 4, requires_grad=True)
    u_hat = invertible_u(w, torch.ones(3, 4))[0]
    u_hat.sum().backward()
    assert u_hat.isfinite().all() and w.grad.isfinite().all()


@pytest.mark.parametrize(("num_transforms", "groups", "num_points"), [(1, 1, 1), (2, 3, 1), (5, 2, 3), (4, 1, 6)])
def test_recurrence_gradcheck(num_transforms, groups, num_points):
    drive = random(0, num_transforms, groups, num_points).requires_grad_()
    gram = random(1, num_transforms, num_transforms, groups).requires_grad_()
    assert_gradients(PlanarRecurrence.apply, [drive, gram], size=10)


def naive_recurrence(drive, gram):
    rows = []
    for k in range(len(drive)):
        rows.append(torch.tanh(drive[k] + sum(gram[k, j, :, None] * rows[j] for j in range(k))))
    return torch.stack(rows)


def test_recurrence_has_second_derivatives():
    drive, gram, weight = random(0, 3, 2, 4), random(1, 3, 3, 2), random(2, 3, 2, 4)

    def gradient(function, drive, gram):
        inputs = [drive.requires_grad_(), gram.requires_grad_()]
        return torch.autograd.grad((weight * function(*inputs)).sum(), inputs, create_graph=True)

    def second(function, drive, gram):
        first = gradient(function, drive, gram)
        return torch.autograd.grad(sum(value.square().sum() for value in first), [drive, gram])

    expected = second(naive_recurrence, drive.clone(), gram.clone())
    assert_agrees(expected, lambda: second(PlanarRecurrence.apply, drive, gram), [drive, gram])


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own forward mode uses it
@pytest.mark.parametrize("transform", ["jacrev", "jacfwd", "hessian", "vmap of drive", "vmap of gram", "vmap of grad"])
def test_recurrence_under_torch_func(transform):
    drive, gram = random(0, 5, 3, 2, 4), random(1, 5, 3, 3, 2)

    def results(function):
        loss = lambda drive, gram: function(drive, gram).square().sum()  # noqa: E731
        match transform:
            case "jacrev" | "jacfwd":
                return getattr(torch.func, transform)(function, argnums=(0, 1))(drive[0], gram[0])
            case "hessian":
                return [value for row in torch.func.hessian(loss, (0, 1))(drive[0], gram[0]) for value in row]
            case "vmap of drive":
                return torch.func.vmap(function, in_dims=(0, None))(drive, gram[0])
            case "vmap of gram":
                return torch.func.vmap(function, in_dims=(None, 0))(drive[0], gram)
        return torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(drive, gram)

    assert_agrees(results(naive_recurrence), lambda: results(PlanarRecurrence.apply), [drive, gram])


def test_recurrence_leaves_its_inputs_alone():
    drive, gram = random(0, 4, 2, 3), random(1, 4, 4, 2)
    kept = drive.clone(), gram.clone()
    PlanarRecurrence.apply(drive, gram)
    assert torch.equal(drive, kept[0]) and torch.equal(gram, kept[1])


def textbook(z, w, u, b):
    """Apply the planar maps one after the other to one point, as in arXiv:1505.05770, equations 10 to 12."""
    ladj = torch.zeros((), dtype=z.dtype)
    for w_k, u_k, b_k in zip(w, u, b, strict=True):
        h = torch.tanh(w_k @ z + b_k)
        ladj = ladj + (1 + (1 - h**2) * (u_k @ w_k)).abs().log()
        z = z + u_k * h
    return z, ladj


@pytest.mark.parametrize("num_transforms", [1, 2, 7])
@pytest.mark.parametrize("amortised", [True, False])
def test_joint_evaluation_is_the_naive_loop(num_transforms, amortised):
    groups = (3,) if amortised else ()
    w, u, b = (random(seed, *groups, num_transforms, *rest) for seed, rest in enumerate([(5,), (5,), ()]))
    z = random(3, 4, 3, 5)
    points = [(sample, i) for sample in range(4) for i in range(3)]
    u_hat, _ = invertible_u(w, u)
    own = [[parameter[i] if amortised else parameter for parameter in (w, u_hat, b)] for _, i in points]
    naive = [textbook(z[point], *parameters) for point, parameters in zip(points, own, strict=True)]
    out, ladj = (torch.stack(results).unflatten(0, (4, 3)) for results in zip(*naive, strict=True))
    assert_agrees((out, ladj), lambda: PlanarTransform(w, u, b).call_and_ladj(z), [w, u, b, z])


def test_gradients_are_those_of_the_naive_loop():
    inputs = [random(seed, *shape).requires_grad_() for seed, shape in enumerate([(5,), (4, 5), (4, 5), (4,)])]
    z, w, u, b = inputs
    weight = random(9, 5)

    def gradients(out, ladj):
        return torch.autograd.grad((out * weight).sum() + 2 * ladj.sum(), inputs)

    naive = gradients(*textbook(z, w, invertible_u(w, u)[0], b))
    assert_agrees(naive, lambda: gradients(*PlanarTransform(w, u, b).call_and_ladj(z[None])), inputs)


@pytest.mark.parametrize(("amortised", "groups", "context_features"), [(True, 3, 4), (False, 1, 0)])
def test_parameters_are_made_from_the_context_or_global(amortised, groups, context_features):
    flow = PlanarFlow((5,), 4, num_transforms=2, amortised=amortised)
    assert flow.context_features == context_features
    transform = flow(torch.ones(3, flow.context_features))
    assert transform.w.shape == transform.u.shape == (groups, 2, 5)
    assert transform.b.shape == (groups, 2)
    num_parameters = 2 * (5 + 5 + 1) * (1 + context_features)
    assert sum(parameter.numel() for parameter in flow.parameters()) == num_parameters


def test_hyperplanes_differ_from_the_start():
    transform = PlanarFlow((5,), 4, num_transforms=3, amortised=True)(torch.zeros(1, 4))
    w = torch.nn.functional.normalize(transform.w[0], dim=-1)
    assert ((w @ w.mT).tril(-1).abs() < 1 - 1e-3).all() and transform.w.norm(dim=-1).min() > 0


@pytest.mark.parametrize("std", [1.0, 5.0, 50.0])
@pytest.mark.parametrize("amortised", [True, False])
def test_flow_is_monotone_along_w(std, amortised):
    """The purpose of the constraint: along w, a planar map never turns back."""
    for seed in range(20):
        flow = perturb(make_flow("planar", {"num_transforms": 1, "amortised": amortised}, (3,)), std)
        transform = flow(random(seed, 1, flow.context_features))
        w = transform.w[0, 0]
        position = torch.linspace(-4, 4, 2001, dtype=torch.float64) / w.norm()
        z = position[:, None] * w / w.norm() - transform.b[0, 0] * w / w.square().sum()
        out, _ = transform.call_and_ladj(z[:, None])
        along, size = out[:, 0] @ w, (z.abs() + transform.u[0, 0].abs()) @ w.abs()
        assert (along.diff() >= -tolerance(size[1:])).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-12, 1e-3, 1e3, 1e6])
def test_extreme_values_stay_finite(dtype, size):
    w, u, b, z = ((size * random(seed, *shape)).to(dtype) for seed, shape in enumerate([(8, 5), (8, 5), (8,), (6, 5)]))
    w.requires_grad_()
    out, ladj = PlanarTransform(w, u, b).call_and_ladj(z)
    (out.sum() + ladj.sum()).backward()
    assert out.isfinite().all() and ladj.isfinite().all() and w.grad.isfinite().all()


@pytest.mark.parametrize(("w_dot_u", "dtype"), [(-19, torch.float32), (-30, torch.float32), (-600, torch.float64)])
def test_a_map_that_almost_folds(w_dot_u, dtype):
    """On its hyperplane ln|det| is ln(1 + m) = ln softplus(w'u + c), about w'u + c, with gradient w at u.

    1 + w'u_hat itself would be rounded to 0, and so it would be in half precision from w'u = -8 on.
    """
    w, u = torch.tensor([[2.0, 0.0]], dtype=dtype), torch.tensor([[w_dot_u / 2, 0.0]], dtype=dtype, requires_grad=True)
    z = torch.zeros(1, 1, 2, dtype=dtype)
    ladj = PlanarTransform(w, u, torch.zeros(1, dtype=dtype)).call_and_ladj(z)[1]
    expected = math.log(math.log1p(math.exp(w_dot_u + SHIFT)))
    assert_close(ladj, torch.full_like(ladj, expected))
    ladj.sum().backward()
    assert_close(u.grad, w)
