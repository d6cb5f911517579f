"""Real NVP, whole and coupling by coupling, against zuko's transforms given the same numbers."""

import math

import torch
from zuko.distributions import DiagNormal, NormalizingFlow
from zuko.transforms import ComposedTransform, CouplingTransform, DependentTransform, MonotonicAffineTransform

from flowvae.distributions import DiagonalNormal, TransformedDistribution
from flowvae.flows.real_nvp import RealNVP

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
N, SLOPE = 30, 1e-30


def unclipped(log_scale):
    """What zuko's soft clipping by SLOPE turns into log_scale."""
    return log_scale / (1 - (log_scale / math.log(SLOPE)).abs())


def zuko_coupling(stack, i):
    """The i-th coupling; the first moves the second block, and so on in turns."""

    def meta(kept):
        log_scale, shift = stack.scale_and_shift(i, kept)
        return DependentTransform(MonotonicAffineTransform(shift, unclipped(log_scale), slope=SLOPE), 1)

    first, second = stack.partition.sizes
    kept = torch.cat([torch.full((first,), i % 2 == 0), torch.full((second,), i % 2 == 1)])
    return CouplingTransform(meta, kept)


def check(latent_dim):
    flow = RealNVP(
        (latent_dim,),
        3,
        num_transforms=3,
        hidden_features=(6, 5),
        context=True,
        log_scale_bound=1.5,
        normalization="none",
        weight_norm=False,
        net_batch_norm=False,
    )
    for parameter in flow.parameters():
        parameter.data += 0.4 * torch.randn_like(parameter)
    context, noise = torch.randn(N, 3), torch.randn(7, N, latent_dim)
    loc, scale = torch.randn(N, latent_dim), torch.rand(N, latent_dim) + 0.5
    transform = flow(context)
    oracle = ComposedTransform(*(zuko_coupling(transform, i) for i in range(6)))
    out, ladj = transform.call_and_ladj(noise)
    expected_out, expected_ladj = oracle.call_and_ladj(noise)
    torch.testing.assert_close(out, expected_out)
    torch.testing.assert_close(ladj, expected_ladj)
    torch.testing.assert_close(transform.inv(noise), oracle.inv(noise))
    z, log_prob = TransformedDistribution(DiagonalNormal(loc, scale), transform).rsample_and_log_prob(noise)
    expected = NormalizingFlow(oracle.inv, DiagNormal(loc, scale)).log_prob(z)  # zuko: from data to base
    torch.testing.assert_close(log_prob, expected)


check(2)
check(6)
check(7)
print("agrees")
