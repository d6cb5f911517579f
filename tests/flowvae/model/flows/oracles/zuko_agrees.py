"""Real NVP on vectors and maps: the results of zuko's transforms for the same numbers."""

import math

import torch
from tolerances import assert_agrees, assert_close, size_of
from zuko.distributions import DiagNormal, NormalizingFlow
from zuko.transforms import ComposedTransform, CouplingTransform, DependentTransform, MonotonicAffineTransform

from flowvae.model.distributions import DiagonalNormal, TransformedDistribution
from flowvae.model.flows.conv_real_nvp import ConvRealNVP
from flowvae.model.flows.real_nvp import RealNVP

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
N, SLOPE = 30, 1e-30


def unclipped(log_scale):
    """Return the value that zuko's soft clipping by SLOPE maps to log_scale."""
    return log_scale / (1 - (log_scale / math.log(SLOPE)).abs())


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

        log_scale, shift = map(on_moved, stack.scale_and_shift(i, blocks[1 - moved]))
        return DependentTransform(MonotonicAffineTransform(shift, unclipped(log_scale), slope=SLOPE), 1)

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
    oracle = ComposedTransform(*(zuko_coupling(stack, i) for stack in stacks for i in range(len(stack.nets))))
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
    nets = {"num_transforms": 2, "map_shape": None, "hidden_channels": 4, "num_blocks": 1, "weight_norm": False}
    check(ConvRealNVP(latent_shape, 3, **nets, **SETTINGS), math.prod(latent_shape))
print("agrees")
