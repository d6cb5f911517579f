"""Planar maps, affine couplings and batch norm: the results of Pyro for the same numbers."""

import math

import torch
from pyro.distributions.transforms import AffineCoupling, BatchNorm, ConditionalPlanar, Planar
from tolerances import assert_agrees
from torch.distributions import Normal

from flowvae.model.distributions import DiagonalNormal
from flowvae.model.distributions import TransformedDistribution as Posterior
from flowvae.model.flows.normalization import BatchNormLayer
from flowvae.model.flows.planar import PlanarTransform, invertible_u
from flowvae.model.flows.real_nvp import RealNVP

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
D, K, N = 4, 5, 30


def pyro_planar(w, u, b):
    oracle = Planar(D)
    for parameter, value in [(oracle.w, w), (oracle.u, u), (oracle.bias, b)]:
        parameter.data = value
    return oracle


def check_planar_maps():
    """Our shift of softplus by c is equivalent to Pyro's constraint for u + c w / ||w||^2."""
    w, u, b, z = 2 * torch.randn(K, D), 3 * torch.randn(K, D), torch.randn(K, 1), torch.randn(N, D)
    maps = [pyro_planar(*row) for row in zip(w, shifted(w, u), b)]
    total = torch.zeros(N)
    point = z
    for oracle in maps:
        mapped = oracle(point)
        total = total + oracle.log_abs_det_jacobian(point, mapped)
        point = mapped
    expected = point[:, None], total[:, None]
    assert_agrees(expected, lambda: PlanarTransform(w, u, b.squeeze(-1)).call_and_ladj(z[:, None]), [w, u, b, z])


def shifted(w, u):
    return u + math.log(math.e - 1) * w / w.square().sum(-1, keepdim=True)


def check_constraint():
    w, u = 2 * torch.randn(N, D), 3 * torch.randn(N, D)
    assert_agrees(Planar(D).u_hat(shifted(w, u), w), lambda: invertible_u(w, u)[0], [w, u])


def check_amortised_planar():
    """One set of parameters per image, as in Pyro's conditional planar map."""
    weight = torch.randn(3, 2 * D + 1)
    parameters = lambda context: (context @ weight).split((1, D, D), dim=-1)  # noqa: E731
    context, z = torch.randn(N, 3), torch.randn(N, D)
    b, u, w = parameters(context)
    oracle = ConditionalPlanar(lambda context: (b, shifted(w, u), w)).condition(context)
    mapped = oracle(z)
    expected = mapped, oracle.log_abs_det_jacobian(z, mapped)
    w, u = w[:, None].clone(), u[:, None].clone()
    assert_agrees(expected, lambda: PlanarTransform(w, u, b).call_and_ladj(z), [w, u, b, z])


def perturbed_real_nvp(latent_dim):
    flow = RealNVP(
        (latent_dim,),
        3,
        num_transforms=2,
        hidden_features=(6,),
        context=True,
        log_scale_bound=1.5,
        normalization="none",
        weight_norm=False,
        net_batch_norm=False,
    )
    for parameter in flow.parameters():
        parameter.data += 0.4 * torch.randn_like(parameter)
    return flow


def pyro_couplings(stack, z):
    """Apply the couplings of the stack one by one with Pyro, given the same s and t.

    Returns:
        The last z, and the sum of ln|det|.
    """
    total = torch.zeros(len(z))
    for i in range(len(stack.nets)):
        moved = 1 - i % 2  # Pyro wants the kept block first

        def hypernet(kept, i=i):
            return stack.scale_and_shift(i, kept)[::-1]

        blocks = list(z.split(stack.partition.sizes, -1))
        ordered = torch.cat([blocks[1 - moved], blocks[moved]], -1)
        oracle = AffineCoupling(stack.partition.sizes[1 - moved], hypernet)
        out = oracle(ordered)
        total = total + oracle.log_abs_det_jacobian(ordered, out)
        blocks[moved] = out[:, stack.partition.sizes[1 - moved] :]
        z = torch.cat(blocks, -1)
    return z, total


def check_couplings(latent_dim):
    flow, z, context = perturbed_real_nvp(latent_dim), torch.randn(N, latent_dim), torch.randn(N, 3)
    inputs = [z, context, *flow.parameters()]
    assert_agrees(pyro_couplings(flow(context), z), lambda: flow(context).call_and_ladj(z), inputs)


def check_posterior():
    """log q_K, drawn and scored together and through the inverse."""
    loc, scale, noise = torch.randn(N, D), torch.rand(N, D) + 0.5, torch.randn(N, D)
    flow, context = perturbed_real_nvp(D), torch.randn(N, 3)
    inputs = [loc, scale, context, *flow.parameters()]

    def posterior():
        return Posterior(DiagonalNormal(loc, scale), flow(context))

    z, ladj = pyro_couplings(flow(context), loc + scale * noise)
    log_prob = Normal(loc, scale).log_prob(loc + scale * noise).sum(-1) - ladj
    assert_agrees((z, log_prob), lambda: posterior().rsample_and_log_prob(noise), [noise, *inputs])
    z = z.detach()
    assert_agrees(log_prob, lambda: posterior().log_prob(z), [z, *inputs])


def check_batch_norm():
    """Pyro's transform runs from base to data, and ours from z0 to zK: its inverse is our forward."""
    layer, oracle, z = BatchNormLayer(D, 1).eval(), BatchNorm(D, epsilon=0.0).eval(), torch.randn(N, D)
    layer.scaling.shift.data, layer.scaling.log_scale.data = torch.randn(D), torch.randn(D)
    statistics = layer.scaling.statistics
    statistics.mean, statistics.variance = oracle.moving_mean, oracle.moving_variance = (
        torch.randn(D),
        torch.rand(D) + 0.1,
    )
    oracle.beta.data, oracle.gamma.data = layer.scaling.shift.data, layer.scaling.log_scale.data.exp() - 1e-6
    out = oracle._inverse(z)
    expected = out, -oracle.log_abs_det_jacobian(out, z).sum(-1).expand(N), oracle._call(z)
    inputs = [z, *layer.parameters(), statistics.mean, statistics.variance]
    assert_agrees(expected, lambda: (*layer().call_and_ladj(z), layer().inv(z)), inputs)


check_planar_maps()
check_batch_norm()
check_constraint()
check_amortised_planar()
check_couplings(4)
check_couplings(5)
check_posterior()
print("agrees")
