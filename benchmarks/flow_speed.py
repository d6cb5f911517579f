"""Forward and backward pass of a flow, compared with PyPI packages that compute the same map.

Prediction, from the arithmetic: K planar maps that are evaluated jointly need K steps on (batch,) instead of K steps on
(batch, D), so they are several times faster than a loop. Couplings are matrix products in every library, so flowvae can
only win by having fewer small operations around them.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from benchmarks.measuring import Entry, entry
from flowvae.model.flows.planar import PlanarFlow
from flowvae.model.flows.real_nvp import RealNVP

BATCH, LATENT_DIM, NUM_PLANAR, NUM_PAIRS, HIDDEN = 512, 40, 40, 10, (128, 128)
ROUNDS, CALLS = 9, 10
Loss = Callable[[Tensor], Tensor]  # z, shape (batch, D), to a scalar


def measure() -> list[Entry]:
    """Median milliseconds per call of each implementation, interleaved, on one thread."""
    torch.set_num_threads(1)
    shape = f"batch {BATCH}, D {LATENT_DIM}"
    planar = f"{NUM_PLANAR} planar maps, global parameters, {shape}"
    coupling = f"{2 * NUM_PAIRS} affine couplings, nets of {HIDDEN}, {shape}"
    groups = {planar: planar_losses(), coupling: coupling_losses()}
    results = []
    for description, losses in groups.items():
        conditions = f"forward and backward of {description}, 1 thread, float32, median of {ROUNDS} rounds, interleaved"
        results += [
            entry(name, milliseconds, "ms", conditions, digits=2) for name, milliseconds in interleaved(losses).items()
        ]
    return results


def interleaved(losses: dict[str, Loss]) -> dict[str, float]:
    """Median milliseconds of a forward and a backward pass of each loss."""
    z = torch.randn(BATCH, LATENT_DIM, requires_grad=True)
    times: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(ROUNDS):
        for name, loss in losses.items():
            loss(z.clone()).backward()  # warm-up; a new tensor each time, because Pyro caches the last result
            started = time.perf_counter()
            for _ in range(CALLS):
                loss(z.clone()).backward()
            times[name].append((time.perf_counter() - started) / CALLS * 1000)
    return {name: median(values) for name, values in times.items()}


def planar_losses() -> dict[str, Loss]:
    """A loss of K planar maps for each package, by name of the result."""
    import normflows
    from pyro.distributions.transforms import Planar

    flowvae_flow = PlanarFlow((LATENT_DIM,), 0, num_transforms=NUM_PLANAR, amortised=False)
    pyro_maps = [Planar(LATENT_DIM) for _ in range(NUM_PLANAR)]
    normflows_maps = nn.ModuleList(normflows.flows.Planar((LATENT_DIM,)) for _ in range(NUM_PLANAR))
    return {
        "planar_ms": lambda z: total(*flowvae_flow(z).call_and_ladj(z)),
        "planar_pyro_ms": lambda z: chain_pyro(pyro_maps, z),
        "planar_normflows_ms": lambda z: chain_normflows(normflows_maps, z),
    }


def coupling_losses() -> dict[str, Loss]:
    """A loss of a stack of affine couplings for each package, by name of the result."""
    import normflows
    from pyro.distributions.transforms import affine_coupling

    flowvae_flow = RealNVP(
        (LATENT_DIM,),
        0,
        num_transforms=NUM_PAIRS,
        hidden_features=HIDDEN,
        context=False,
        log_scale_bound=2.0,
        normalization="none",
        weight_norm=False,
        net_batch_norm=False,
    )
    pyro_couplings = [affine_coupling(LATENT_DIM, list(HIDDEN)) for _ in range(2 * NUM_PAIRS)]
    layers: list[nn.Module] = []
    for _ in range(2 * NUM_PAIRS):
        net = normflows.nets.MLP([LATENT_DIM // 2, *HIDDEN, LATENT_DIM], init_zeros=True)
        layers += [normflows.flows.AffineCouplingBlock(net), normflows.flows.Permute(LATENT_DIM, mode="swap")]
    normflows_couplings = nn.ModuleList(layers)
    return {
        "coupling_ms": lambda z: total(*flowvae_flow(z).call_and_ladj(z)),
        "coupling_pyro_ms": lambda z: chain_pyro(pyro_couplings, z),
        "coupling_normflows_ms": lambda z: chain_normflows(normflows_couplings, z),
    }


def chain_pyro(transforms: Sequence[Transform], z: Tensor) -> Tensor:
    """Loss of transforms of Pyro, one after another."""
    ladj = z.new_zeros(len(z))
    for transform in transforms:
        previous, z = z, transform(z)
        ladj = ladj + transform.log_abs_det_jacobian(previous, z)
    return total(z, ladj)


def chain_normflows(transforms: nn.ModuleList, z: Tensor) -> Tensor:
    """Loss of transforms of normflows, one after another."""
    ladj = z.new_zeros(len(z))
    for transform in transforms:
        z, term = transform(z)
        ladj = ladj + term
    return total(z, ladj)


def total(z: Tensor, ladj: Tensor) -> Tensor:
    """A scalar that depends on all results of a flow."""
    return z.square().sum() - ladj.sum()
