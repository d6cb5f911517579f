"""Flows of other libraries as parts of a VAE."""

from torch import Tensor, nn
from torch.distributions import transforms

from flowvae.model.flows import Flow
from flowvae.model.transforms import Transform


class ZukoFlow(Flow):
    """A flow of zuko (https://zuko.readthedocs.io), such as zuko.flows.NSF, as posterior or prior.

    Its transform is used in the direction in which zuko computes densities: from z0 to zK in a posterior, from z to
    noise in a prior. So one pass is enough in training, also of an autoregressive flow. The base of zuko's flow is not
    used; the posterior's is the encoder's diagonal normal.

    Args:
        flow: of D features; with as much context as `context_features` says.
        context_features: size of the context, 0 for none.
    """

    def __init__(self, flow: nn.Module, context_features: int = 0) -> None:
        super().__init__()
        self.flow, self.context_features = flow, context_features

    def forward(self, context: Tensor) -> "TorchTransform":
        lazy = self.flow.get_submodule("transform")
        return TorchTransform(lazy(context if self.context_features else None))


class TorchTransform(Transform):
    """A bijective transform of `torch.distributions` as a transform of flowvae.

    Args:
        transform: on vectors, or on numbers; the latter is applied to each element of a vector.
    """

    def __init__(self, transform: transforms.Transform) -> None:
        elementwise = transform.domain.event_dim == 0
        self.transform = transforms.IndependentTransform(transform, 1) if elementwise else transform

    @property
    def has_inverse(self) -> bool:
        return self.transform.bijective

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return call_and_ladj(self.transform, z)

    def _inv_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return call_and_ladj(self.transform.inv, z)


def call_and_ladj(transform: transforms.Transform, z: Tensor) -> tuple[Tensor, Tensor]:
    """f(z) and ln|det df/dz|, in one pass where the transform has a method for it, as zuko's have."""
    if hasattr(transform, "call_and_ladj"):
        y, ladj = transform.call_and_ladj(z)
        return y, ladj
    y = transform(z)
    return y, transform.log_abs_det_jacobian(z, y)
