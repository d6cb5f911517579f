"""Forward and backward of a flow, against PyPI peers that compute the same map.

Prediction, from the arithmetic: K planar maps evaluated jointly need K steps on (batch,) in place of K
steps on (batch, D), so several times faster than a loop. Couplings are matrix products in every
library: ours should win only by having fewer small operations around them.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from flowvae.flows.planar import PlanarFlow
from flowvae.flows.real_nvp import RealNVP

BATCH, LATENT_DIM, NUM_PLANAR, NUM_PAIRS, HIDDEN = 512, 40, 40, 10, (128, 128)
ROUNDS, CALLS = 9, 10


def measure() -> list[dict[str, object]]:
    """Median milliseconds per call of each implementation, interleaved, on one thread."""
    torch.set_num_threads(1)
    shape = f"batch {BATCH}, D {LATENT_DIM}"
    planar = f"{NUM_PLANAR} planar maps, global parameters, {shape}"
    coupling = f"{2 * NUM_PAIRS} affine couplings, nets of {HIDDEN}, {shape}"
    groups = {planar: planar_flows(), coupling: coupling_flows()}
    results = []
    for what, candidates in groups.items():
        for name, milliseconds in interleaved(candidates).items():
            conditions = f"forward and backward of {what}, 1 thread, float32, median of {ROUNDS} rounds, interleaved"
            results.append({"name": name, "value": round(milliseconds, 2), "unit": "ms", "conditions": conditions})
    return results


def interleaved(candidates: dict[str, Callable[[Tensor], Tensor]]) -> dict[str, float]:
    z = torch.randn(BATCH, LATENT_DIM, requires_grad=True)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, loss in candidates.items():
            loss(z.clone()).backward()  # warm up; a fresh tensor, since Pyro keeps the last result
            started = time.perf_counter()
            for _ in range(CALLS):
                loss(z.clone()).backward()
            times[name].append((time.perf_counter() - started) / CALLS * 1000)
    return {name: median(values) for name, values in times.items()}


def planar_flows() -> dict[str, Callable[[Tensor], Tensor]]:
    import normflows
    from pyro.distributions.transforms import Planar

    ours = PlanarFlow((LATENT_DIM,), 0, num_transforms=NUM_PLANAR, amortised=False)
    pyro = nn.ModuleList(Planar(LATENT_DIM) for _ in range(NUM_PLANAR))
    peer = nn.ModuleList(normflows.flows.Planar((LATENT_DIM,)) for _ in range(NUM_PLANAR))
    return {
        "planar_ms": lambda z: total(*ours(z).call_and_ladj(z)),
        "planar_pyro_ms": lambda z: chain_pyro(pyro, z),
        "planar_normflows_ms": lambda z: chain_normflows(peer, z),
    }


def coupling_flows() -> dict[str, Callable[[Tensor], Tensor]]:
    import normflows
    from pyro.distributions.transforms import affine_coupling

    half = LATENT_DIM // 2
    plain = {"normalization": "none", "weight_norm": False, "net_batch_norm": False}
    nets = {"num_transforms": NUM_PAIRS, "hidden_features": HIDDEN, "context": False, "log_scale_bound": 2.0}
    ours = RealNVP((LATENT_DIM,), 0, **nets, **plain)
    pyro = nn.ModuleList(affine_coupling(LATENT_DIM, list(HIDDEN)) for _ in range(2 * NUM_PAIRS))
    peer: list[nn.Module] = []
    for _ in range(2 * NUM_PAIRS):
        net = normflows.nets.MLP([half, *HIDDEN, LATENT_DIM], init_zeros=True)
        peer += [normflows.flows.AffineCouplingBlock(net), normflows.flows.Permute(LATENT_DIM, mode="swap")]
    peers = nn.ModuleList(peer)
    return {
        "coupling_ms": lambda z: total(*ours(z).call_and_ladj(z)),
        "coupling_pyro_ms": lambda z: chain_pyro(pyro, z),
        "coupling_normflows_ms": lambda z: chain_normflows(peers, z),
    }


def chain_pyro(transforms: nn.ModuleList, z: Tensor) -> Tensor:
    ladj = z.new_zeros(len(z))
    for transform in transforms:
        before, z = z, transform(z)
        ladj = ladj + transform.log_abs_det_jacobian(before, z)
    return total(z, ladj)


def chain_normflows(transforms: nn.ModuleList, z: Tensor) -> Tensor:
    ladj = z.new_zeros(len(z))
    for transform in transforms:
        z, step = transform(z)
        ladj = ladj + step
    return total(z, ladj)


def total(z: Tensor, ladj: Tensor) -> Tensor:
    return z.square().sum() - ladj.sum()
