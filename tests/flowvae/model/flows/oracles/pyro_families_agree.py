"""Radial, Householder, Sylvester, autoregressive and spline flows: the results of Pyro for the same numbers."""

from importlib import import_module

import torch
from pyro.distributions.transforms import AffineAutoregressive, Householder, Radial, Sylvester
from tolerances import assert_agrees, assert_close
from torch import nn
from torch.nn.functional import softplus

from flowvae.model.flows.autoregressive import OFFSET, AffineAutoregressiveFlow
from flowvae.model.flows.householder import HouseholderFlow
from flowvae.model.flows.orthogonal import Reflections, Reversals
from flowvae.model.flows.radial import RadialTransform
from flowvae.model.flows.spline import knots_of, num_parameters, spline, spline_inv
from flowvae.model.flows.sylvester import SylvesterTransform

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
D, K, N, BOUND = 4, 5, 30, 3.0


def check_radial():
    """Pyro's beta is -alpha + softplus(beta'), which is alpha (m - 1) for m = softplus(beta') / alpha."""
    centre, raw, z = torch.randn(K, D), torch.randn(K, 2), torch.randn(N, D)
    alpha, alpha_m = softplus(raw).unbind(-1)
    point, total = z, torch.zeros(N)
    for k in range(K):
        oracle = Radial(D)
        oracle.x0.data, oracle.alpha_prime.data, oracle.beta_prime.data = centre[k], raw[k, :1], raw[k, 1:]
        mapped = oracle(point)
        total = total + oracle.log_abs_det_jacobian(point, mapped)
        point = mapped.detach()
    m = (alpha_m / alpha).detach()
    transform = RadialTransform(centre, alpha, m)
    assert_agrees((point[:, None], total[:, None]), lambda: transform.call_and_ladj(z[:, None]), [centre, alpha, m, z])


def check_householder():
    flow, z = HouseholderFlow((D,), 0, num_transforms=K, amortised=False), torch.randn(N, D)
    flow.bias.data += torch.randn_like(flow.bias)
    oracle = Householder(D, 2 * K)
    oracle.u_unnormed.data = flow.bias.data.cumsum(-2).flatten(0, 1)  # v, then v + u
    transform = flow(torch.zeros(N, 0))
    assert_agrees((oracle._call(z), oracle._inverse(z)), lambda: (transform.call_and_ladj(z)[0], transform.inv(z)), [z])


class ExactSylvester(Sylvester):
    """Pyro's, without the 1e-8 that it adds to every factor of the determinant."""

    def dtanh_dx(self, x):
        return super().dtanh_dx(x) - 1e-8 / (self.R().diagonal() * self.S().diagonal())


def random_sylvester(vectors):
    oracle = ExactSylvester(D, len(vectors))
    for parameter in oracle.parameters():
        parameter.data = torch.randn_like(parameter)
    oracle.u_unnormed.data = vectors
    return oracle


def square_of(r, s, p):
    """R above the diagonal, R~' below it, p on it."""
    return (r.triu(1) + s.mT.tril(-1) + p.diag())[None, None]


def check_matrices_of_sylvester():
    """Q, R and R~ are Pyro's, for any reflections; the map is the paper's (see `check_sylvester`)."""
    vectors, z = torch.randn(3, D), torch.randn(N, D)
    oracle = random_sylvester(vectors).requires_grad_(False)
    q, r, s = oracle.Q(z), oracle.R(), oracle.S()
    numbers = [vectors, z, *oracle.parameters()]
    expected = z + (q @ r @ (s @ q.T @ z.T + oracle.b[:, None]).tanh()).T

    def found():
        square = square_of(oracle.R_dense, oracle.S_dense, oracle.R_diag)
        columns = Reflections(oracle.u_unnormed[None, None], D)
        transform = SylvesterTransform(columns, square, oracle.S_diag[None, None, None], oracle.b[None, None, None])
        return transform.call_and_ladj(z[:, None])[0][:, 0]

    assert_agrees(expected, found, numbers)


def check_sylvester():
    """Pyro multiplies rows by matrices that are meant for columns: its map is z + R'Q' tanh(Q S'z + b).

    The determinant that it returns is that of its map if Q is diagonal, here with reflections along axes. Then the map
    is z + R' tanh(S'z + Qb), which is ours in the triangular form: R and R~ are R' and S' in the reverse order, and so
    are the elements of every other transformation, those with Q = I.
    """
    oracles = [random_sylvester(torch.randn(2, 1) * torch.eye(D)[[0, k + 2]]) for k in range(2)]
    z, total = torch.randn(N, D), torch.zeros(N)
    point = z
    for oracle, order in zip(oracles, (range(D)[::-1], range(D)), strict=True):
        start = point[:, list(order)].detach()
        mapped = oracle(start)
        total = total + oracle.log_abs_det_jacobian(start, mapped)
        point = mapped[:, list(order)]
    rows = [
        (
            square_of(oracle.R_dense.mT.flip(0, 1), oracle.S_dense.mT.flip(0, 1), oracle.R_diag.flip(0)),
            oracle.S_diag.flip(0)[None, None, None],
            (oracle.Q(z) @ oracle.b).flip(0)[None, None, None],
        )
        for oracle in oracles
    ]
    square, q, b = (torch.cat(values).detach() for values in zip(*rows, strict=True))

    def found():
        return SylvesterTransform(Reversals(), square, q, b).call_and_ladj(z[:, None])

    assert_agrees((point[:, None], total[:, None]), found, [square, q, b, z])


class Outputs(nn.Module):
    """Mean and log-scale, as Pyro wants them from a network, or the logit of the scale of a stable gate."""

    def __init__(self, flow, k):
        super().__init__()
        self.flow, self.k = flow, k
        self.permutation = flow.degrees[k].argsort().tolist()

    def forward(self, z):
        raw, m = self.flow.nets[self.k](z).unbind(-2)
        return m * at_start(self.flow.gate), self.flow.log_scale_bound * raw.tanh()


def at_start(gate):
    """Pyro's scale for an output of 0. Its stable transformation is ours times this number."""
    return torch.tensor(OFFSET).sigmoid() if gate == "stable" else 1.0


def check_autoregressive(gate):
    settings = {"num_transforms": 3, "hidden_features": (8,), "context": False, "log_scale_bound": 1.5, "gate": gate}
    flow = AffineAutoregressiveFlow((D,), 0, **settings)
    for parameter in flow.parameters():
        parameter.data += 0.4 * torch.randn_like(parameter)
    oracles = [AffineAutoregressive(Outputs(flow, k), stable=gate == "stable", sigmoid_bias=OFFSET) for k in range(3)]
    z, total = torch.randn(N, D), torch.zeros(N)
    point, scale = z, torch.as_tensor(at_start(gate))
    for oracle in oracles:
        mapped = oracle._call(point)
        total = total + oracle.log_abs_det_jacobian(point, mapped) - D * scale.log()
        point = mapped / scale
    inputs = [z, *flow.parameters()]
    assert_agrees((point, total), lambda: flow(torch.zeros(N, 0)).call_and_ladj(z), inputs)
    back = z
    for oracle in reversed(oracles):
        back = oracle._inverse(scale * back)
    assert_agrees(back, lambda: flow(torch.zeros(N, 0)).inv(z), inputs)


def check_splines():
    pyro_spline = import_module("pyro.distributions.transforms.spline")._monotonic_rational_spline
    exact = {"bound": BOUND, "min_bin_width": 0.0, "min_bin_height": 0.0, "min_derivative": 0.0, "eps": 0.0}
    rows, x = torch.randn(N, D, num_parameters(6)), 0.99 * BOUND * torch.tanh(torch.randn(N, D))
    knots, values, slopes = knots_of(rows, BOUND)
    shares = [edges.diff() / (2 * BOUND) for edges in (knots, values)]
    for ours, inverse in ((spline, False), (spline_inv, True)):
        expected = pyro_spline(x, *shares, slopes[..., 1:-1], inverse=inverse, **exact)
        sizes = [torch.full_like(x, 1e3)] * 2  # of positions in bins of a few percent of the interval
        assert_close(ours(rows, x, BOUND), expected, size=sizes)


check_radial()
check_householder()
check_matrices_of_sylvester()
check_sylvester()
check_autoregressive("affine")
check_autoregressive("stable")
check_splines()
print("agrees")
