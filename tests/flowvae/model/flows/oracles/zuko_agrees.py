"""Couplings, on vectors and maps, and autoregressive flows: the results of zuko's transforms for the same numbers."""

import math

import torch
from tolerances import assert_agrees, assert_close, size_of
from zuko.distributions import DiagNormal, NormalizingFlow
from zuko.transforms import (
    AutoregressiveTransform,
    ComposedTransform,
    CouplingTransform,
    DependentTransform,
    MonotonicAffineTransform,
    MonotonicRQSTransform,
)

from flowvae.model.distributions import DiagonalNormal, TransformedDistribution
from flowvae.model.flows.autoregressive import GATES, AffineAutoregressiveFlow
from flowvae.model.flows.autoregressive_stack import AutoregressiveStack
from flowvae.model.flows.conv_real_nvp import ConvRealNVP
from flowvae.model.flows.real_nvp import RealNVP
from flowvae.model.flows.spline import knots_of, num_parameters
from flowvae.model.flows.spline_autoregressive import SplineAutoregressive, SplineAutoregressiveFlow
from flowvae.model.flows.spline_coupling import SplineCoupling, SplineCouplings

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
N, SLOPE, BOUND, NUM_BINS = 30, 1e-30, 3.0, 4


def unclipped(log_scale, times=1):
    """Return the value that zuko's soft clipping by SLOPE maps to log_scale."""
    return log_scale / (1 - (times * log_scale / math.log(SLOPE)).abs())


def affine_of(log_scale, shift):
    return DependentTransform(MonotonicAffineTransform(shift, unclipped(log_scale), slope=SLOPE), 1)


def spline_of(parameters):
    """The same knots and slopes; zuko's parameters are logarithms of shares and slopes."""
    knots, values, slopes = knots_of(parameters, BOUND)
    widths, heights = (unclipped((edges.diff() / (2 * BOUND)).log(), times=2) for edges in (knots, values))
    inner = unclipped(slopes[..., 1:-1].log())
    return DependentTransform(MonotonicRQSTransform(widths, heights, inner, bound=BOUND, slope=SLOPE), 1)


def zuko_autoregressive(stack, k):
    """Return the k-th transformation, of which zuko computes the inverse."""

    def meta(z):
        output = stack.nets[k](z, stack.context_terms[k])
        if isinstance(stack, SplineAutoregressive):
            return spline_of(output.mT)
        raw, m = output.unbind(-2)
        return affine_of(*stack.gate(stack.log_scale_bound * raw.tanh(), m))

    return AutoregressiveTransform(meta, passes=D)


def zuko_coupling(stack, i):
    """Return the i-th coupling; the first moves the second block, and then they alternate."""
    moved, partition = 1 - i % 2, stack.partition
    ones = partition.split(torch.ones(1, D))
    ones[moved] = torch.zeros_like(ones[moved])
    kept = partition.join(ones)[0].bool()  # (D,)

    def meta(values):
        blocks = partition.split(torch.zeros(*values.shape[:-1], D).masked_scatter(kept, values))
        zero = torch.zeros_like(blocks[1 - moved])

        def on_moved(value):
            return partition.join((value, zero) if moved == 0 else (zero, value))[..., ~kept]

        if isinstance(stack, SplineCouplings):
            return spline_of(stack.output(i, values).unflatten(-1, (-1, num_parameters(NUM_BINS))))
        return affine_of(*map(on_moved, stack.scale_and_shift(i, blocks[1 - moved])))

    return CouplingTransform(meta, kept)


def perturbed(flow):
    for parameter in flow.parameters():
        parameter.data += 0.4 * torch.randn_like(parameter)
    return flow


def check(flow, latent_dim):
    global D
    D = latent_dim
    context, noise = torch.randn(N, 3), torch.randn(7, N, latent_dim)
    loc, scale = torch.randn(N, latent_dim), torch.rand(N, latent_dim) + 0.5
    flow, inputs = perturbed(flow), [context, noise, *flow.parameters()]
    transform = flow(context)
    stacks = transform.transforms if hasattr(transform, "transforms") else [transform]
    zuko_one = zuko_autoregressive if isinstance(stacks[0], AutoregressiveStack) else zuko_coupling
    oracle = ComposedTransform(*(zuko_one(stack, i) for stack in stacks for i in range(len(stack.nets))))
    assert_agrees(oracle.call_and_ladj(noise), lambda: flow(context).call_and_ladj(noise), inputs)
    assert_agrees(oracle.inv(noise), lambda: flow(context).inv(noise), inputs)

    def posterior():
        return TransformedDistribution(DiagonalNormal(loc, scale), flow(context))

    z, log_prob = (result.detach() for result in posterior().rsample_and_log_prob(noise))
    expected = NormalizingFlow(oracle.inv, DiagNormal(loc, scale)).log_prob(z)  # zuko: from data to base
    size = size_of(lambda: posterior().log_prob(z), [loc, scale, z, *inputs])  # zuko scores through the inverse
    assert_close(log_prob, expected, size=size)


SETTINGS = {"context": True, "log_scale_bound": 1.5, "normalization": "none", "net_batch_norm": False}
for latent_dim in (2, 6, 7):
    nets = {"num_transforms": 3, "hidden_features": (6, 5), "weight_norm": latent_dim == 7}
    check(RealNVP((latent_dim,), 3, **nets, **SETTINGS), latent_dim)
for latent_shape in ((1, 4, 4), (2, 2, 4), (3, 3, 1)):
    nets = {
        "num_transforms": 2,
        "map_shape": None,
        "hidden_channels": 4,
        "num_blocks": 1,
        "max_side": None,
        "weight_norm": False,
    }
    check(ConvRealNVP(latent_shape, 3, **nets, **SETTINGS), math.prod(latent_shape))
SPLINE = {"num_transforms": 2, "hidden_features": (6, 5), "context": True, "num_bins": NUM_BINS, "bound": BOUND}
AFFINE = {"num_transforms": 3, "hidden_features": (6, 5), "context": True, "log_scale_bound": 1.5}
for latent_dim in (2, 5):
    check(SplineCoupling((latent_dim,), 3, **SPLINE), latent_dim)
    check(SplineAutoregressiveFlow((latent_dim,), 3, **SPLINE), latent_dim)
    for gate in GATES:
        check(AffineAutoregressiveFlow((latent_dim,), 3, **AFFINE, gate=gate), latent_dim)
print("agrees")
