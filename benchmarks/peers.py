"""The same flows from PyPI packages: one latent size, depth, widths and activation; `flow_speed` compares them.

A package that is not installed is left out. Pyro and zuko replace parts of torch.distributions when they are imported.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LATENT_DIM, HALF, CONTEXT = 40, 20, 32
Map = Callable[[Tensor], tuple[Tensor, Tensor]]  # z, shape (batch, D), to f(z) and ln|det|, shape (batch,)
BINS, BOUND = 8, 5.0
SPLINE_SIZES = (BINS, BINS, BINS - 1)  # widths, heights and slopes of one spline


class Case(NamedTuple):
    """A family of FLOWS, its settings, and builders of the same flow by name of the package.

    An amortised flow gets the first CONTEXT elements of z as its context, without a gradient.
    """

    family: str
    settings: dict[str, Any]
    peers: dict[str, Callable[[], Map]]

    @property
    def name(self) -> str:
        """Family and depth."""
        return f"{self.family}-{self.settings['num_transforms']}{'-amortised' * self.settings.get('amortised', False)}"

    @property
    def description(self) -> str:
        """Its settings in words."""
        return ", ".join(f"{name} {value}" for name, value in self.settings.items())

    def installed(self) -> dict[str, Callable[[], Map]]:
        """The peers whose packages are installed."""
        return {package: build for package, build in self.peers.items() if find_spec(package)}


def chain_pyro(transforms: Sequence[Any], roll: int = 0) -> Map:
    """Transforms of Pyro, one after another; `roll` exchanges the halves of the vector between couplings."""

    def call(z: Tensor) -> tuple[Tensor, Tensor]:
        ladj = z.new_zeros(z.shape[:-1])
        for transform in transforms:
            previous, z = z, transform(z)
            ladj = ladj + transform.log_abs_det_jacobian(previous, z)
            z = z.roll(roll, -1) if roll else z
        return z, ladj

    return call


def chain_normflows(layers: Sequence[nn.Module]) -> Map:
    """Flows of normflows, one after another."""

    def call(z: Tensor) -> tuple[Tensor, Tensor]:
        ladj = z.new_zeros(z.shape[:-1])
        for layer in layers:
            z, term = layer(z)
            ladj = ladj + term
        return z, ladj

    return call


def chain_zuko(layers: Sequence[nn.Module]) -> Map:
    """Lazy transforms of zuko, composed by zuko."""
    from zuko.lazy import LazyComposedTransform

    composed = LazyComposedTransform(*layers)
    return lambda z: composed().call_and_ladj(z)


def pyro_maps(name: str, count: int, *sizes: int) -> Map:
    """Transforms of Pyro that need no network."""
    from pyro.distributions import transforms

    return chain_pyro([getattr(transforms, name)(LATENT_DIM, *sizes) for _ in range(count)])


def pyro_amortised_planar(count: int) -> Map:
    """Parameters that are an affine function of the context, as ours."""
    from pyro.distributions.transforms import ConditionalPlanar

    sizes = (1, LATENT_DIM, LATENT_DIM)

    def parameters(layer: nn.Module, context: Tensor) -> tuple[Tensor, ...]:
        return layer(context).split(sizes, -1)

    maps = [ConditionalPlanar(partial(parameters, nn.Linear(CONTEXT, sum(sizes)))) for _ in range(count)]
    return lambda z: chain_pyro([planar.condition(z[:, :CONTEXT].detach()) for planar in maps])(z)


def pyro_couplings(count: int, hidden: Sequence[int]) -> Map:
    from pyro.distributions.transforms import AffineCoupling
    from pyro.nn import DenseNN

    def net() -> nn.Module:
        return DenseNN(HALF, list(hidden), [HALF, HALF], nonlinearity=nn.SiLU())

    return chain_pyro([AffineCoupling(HALF, net()) for _ in range(count)], roll=HALF)


def pyro_spline_couplings(count: int, hidden: Sequence[int]) -> Map:
    from pyro.distributions.transforms import SplineCoupling
    from pyro.nn import DenseNN

    def net() -> nn.Module:
        return DenseNN(HALF, list(hidden), [HALF * size for size in SPLINE_SIZES], nonlinearity=nn.SiLU())

    spline = {"count_bins": BINS, "bound": BOUND, "order": "quadratic", "identity": True}
    return chain_pyro([SplineCoupling(LATENT_DIM, HALF, net(), **spline) for _ in range(count)], roll=HALF)


def pyro_net(hidden: Sequence[int], sizes: Sequence[int], k: int) -> nn.Module:
    """A masked network with the direct connections of ours; every other one has the reverse order."""
    from pyro.nn import AutoRegressiveNN

    order = torch.arange(LATENT_DIM) if k % 2 == 0 else torch.arange(LATENT_DIM).flip(0)
    shared = {"permutation": order, "skip_connections": True, "nonlinearity": nn.SiLU()}
    return AutoRegressiveNN(LATENT_DIM, list(hidden), list(sizes), **shared)


def pyro_autoregressive(count: int, hidden: Sequence[int]) -> Map:
    from pyro.distributions.transforms import AffineAutoregressive

    return chain_pyro([AffineAutoregressive(pyro_net(hidden, (1, 1), k)) for k in range(count)])


def pyro_spline_autoregressive(count: int, hidden: Sequence[int]) -> Map:
    from pyro.distributions.transforms import SplineAutoregressive

    spline = {"count_bins": BINS, "bound": BOUND, "order": "quadratic"}
    nets = [pyro_net(hidden, SPLINE_SIZES, k) for k in range(count)]
    return chain_pyro([SplineAutoregressive(LATENT_DIM, net, **spline) for net in nets])


def zuko_univariate(splines: bool) -> dict[str, Any]:
    """The function of one element and the shapes of its parameters."""
    from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

    if splines:
        return {
            "univariate": partial(MonotonicRQSTransform, bound=BOUND),
            "shapes": [(size,) for size in SPLINE_SIZES],
        }
    return {"univariate": MonotonicAffineTransform, "shapes": [(), ()]}


def zuko_couplings(count: int, hidden: Sequence[int], *, splines: bool = False) -> Map:
    from zuko.flows.coupling import GeneralCouplingTransform

    kept = torch.arange(LATENT_DIM) < HALF
    shared = {"hidden_features": hidden, "activation": nn.SiLU, **zuko_univariate(splines)}
    return chain_zuko(
        [GeneralCouplingTransform(LATENT_DIM, mask=~kept if i % 2 else kept, **shared) for i in range(count)]
    )


def zuko_autoregressive(count: int, hidden: Sequence[int], *, splines: bool = False) -> Map:
    """Without direct connections from inputs to outputs, which zuko does not have."""
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform

    order = torch.arange(LATENT_DIM)
    shared = {"hidden_features": hidden, "activation": nn.SiLU, **zuko_univariate(splines)}
    return chain_zuko(
        [
            MaskedAutoregressiveTransform(LATENT_DIM, order=order.flip(0) if k % 2 else order, **shared)
            for k in range(count)
        ]
    )


def normflows_planar(count: int) -> Map:
    import normflows

    return chain_normflows([normflows.flows.Planar((LATENT_DIM,)) for _ in range(count)])


def normflows_couplings(count: int, hidden: Sequence[int]) -> Map:
    """With the activation of normflows, a leaky ReLU, which is cheaper than SiLU."""
    import normflows

    layers: list[nn.Module] = []
    for _ in range(count):
        net = normflows.nets.MLP([HALF, *hidden, LATENT_DIM], init_zeros=True)
        layers += [normflows.flows.AffineCouplingBlock(net), normflows.flows.Permute(LATENT_DIM, mode="swap")]
    return chain_normflows(layers)


PLAIN = {"context": False, "log_scale_bound": 2.0, "normalization": "none", "weight_norm": False}
PLAIN |= {"net_batch_norm": False}
SPLINE = {"num_transforms": 2, "hidden_features": (64,), "context": False, "num_bins": BINS, "bound": BOUND}
CASES = (
    Case(
        "planar",
        {"num_transforms": 10, "amortised": False},
        {"pyro": partial(pyro_maps, "Planar", 10), "normflows": partial(normflows_planar, 10)},
    ),
    Case(
        "planar",
        {"num_transforms": 40, "amortised": False},
        {"pyro": partial(pyro_maps, "Planar", 40), "normflows": partial(normflows_planar, 40)},
    ),
    Case("planar", {"num_transforms": 10, "amortised": True}, {"pyro": partial(pyro_amortised_planar, 10)}),
    Case("radial", {"num_transforms": 10, "amortised": False}, {"pyro": partial(pyro_maps, "Radial", 10)}),
    Case(
        "householder",
        {"num_transforms": 10, "amortised": False},
        {"pyro": partial(pyro_maps, "Householder", 1, 20)},  # ours are pairs
    ),
    Case(
        "sylvester",
        {
            "num_transforms": 5,
            "orthogonalization": {"name": "householder", "num_householder": 8},
            "amortised": False,
        },
        {"pyro": partial(pyro_maps, "Sylvester", 5, 8)},
    ),
    Case(
        "real_nvp",
        {"num_transforms": 5, "hidden_features": (64,)} | PLAIN,  # pairs of couplings
        {
            "pyro": partial(pyro_couplings, 10, (64,)),
            "zuko": partial(zuko_couplings, 10, (64,)),
            "normflows": partial(normflows_couplings, 10, (64,)),
        },
    ),
    Case(
        "conv_real_nvp",
        {"num_transforms": 2, "map_shape": (10, 2, 2), "hidden_channels": 32, "num_blocks": 1, "max_side": None}
        | PLAIN,
        {},
    ),
    Case(
        "autoregressive",
        {"num_transforms": 5, "hidden_features": (128,), "context": False, "log_scale_bound": 2.0, "gate": "affine"},
        {"pyro": partial(pyro_autoregressive, 5, (128,)), "zuko": partial(zuko_autoregressive, 5, (128,))},
    ),
    Case(
        "spline_coupling",
        SPLINE,
        {
            "pyro": partial(pyro_spline_couplings, 4, (64,)),
            "zuko": partial(zuko_couplings, 4, (64,), splines=True),
        },
    ),
    Case(
        "spline_autoregressive",
        SPLINE,
        {
            "pyro": partial(pyro_spline_autoregressive, 2, (64,)),
            "zuko": partial(zuko_autoregressive, 2, (64,), splines=True),
        },
    ),
)
