"""Autoregressive transformations: element d is moved by a function that depends on the elements before it."""

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from functools import reduce
from math import prod

import torch
from torch import Tensor, nn

from flowvae.model.flows.family import Flow
from flowvae.model.networks import MaskedMLP, context_terms
from flowvae.model.transforms import Transform


class AutoregressiveStack(Transform):
    """K transformations y_d = f(z_d; net(z_before d, context)), of which every other one has the reverse order.

    Kingma et al. 2016, arXiv:1606.04934, section 4, and Papamakarios et al. 2017, arXiv:1705.07057, section 3. All
    elements are moved in one pass. So a posterior is sampled in K passes, where its functions depend on the earlier
    noise (inverse autoregressive flow), and a prior scores in K passes (masked autoregressive flow). The inverse takes
    K D passes.

    Args:
        nets: one per transformation; (z, context term) -> parameters of f, shape (*sample_shape, batch, outputs, D).
        context_terms: one per net (`flowvae.model.networks.context_terms`).
        degrees: positions of the elements in the order of each transformation, from 1 to D, shape (K, D).
    """

    has_inverse = True

    def __init__(self, nets: Sequence[nn.Module], context_terms: Sequence[Tensor | None], degrees: Tensor) -> None:
        self.nets, self.context_terms, self.degrees = nets, context_terms, degrees

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        log_slopes: list[Tensor] = []
        for k in range(len(self.nets)):
            z, log_slope = self.move(self._output(k, z), z)
            log_slopes.append(log_slope)
        return z, reduce(torch.add, log_slopes).sum(-1)

    def _inv_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        ladj = torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)
        for k in reversed(range(len(self.nets))):
            z, ladj_k = self._invert(k, z)
            ladj = ladj + ladj_k
        return z, ladj

    def _invert(self, k: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """Invert transformation k: one pass for each element, of which the parameters need those before it."""
        known = torch.zeros_like(z)  # 0 for the elements still to come
        log_slopes: list[Tensor] = []
        for index in self.degrees[k].argsort().split(1):
            parameters = self._output(k, known).index_select(-1, index)
            element, log_slope = self.move_back(parameters, z.index_select(-1, index))
            known = known.index_copy(-1, index, element)
            log_slopes.append(log_slope)
        return known, torch.cat(log_slopes, dim=-1).sum(-1)

    def steps(self, num_transforms: int) -> list[Transform]:
        return [self._only(slice(k, k + 1)) for k in range(num_transforms)]

    def _only(self, chosen: slice) -> "AutoregressiveStack":
        stack = copy(self)
        stack.nets, stack.context_terms = self.nets[chosen], self.context_terms[chosen]
        stack.degrees = self.degrees[chosen]
        return stack

    def _output(self, k: int, z: Tensor) -> Tensor:
        return self.nets[k](z, self.context_terms[k])

    @abstractmethod
    def move(self, parameters: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """f(z) and ln of its slope for each element; parameters (*sample_shape, batch, outputs, D)."""

    @abstractmethod
    def move_back(self, parameters: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """f^-1(z) and ln of the slope of f^-1."""


class AutoregressiveFlow(Flow):
    """K masked networks for the transformations of an `AutoregressiveStack`.

    The nets' outputs are multiplied by 1 / sqrt(K), as in `RealNVP`, and are 0 at the start.

    Args:
        latent_shape: shape of the latents, with D elements.
        context_features: size of the context; ignored without `context`.
        num_transforms: K.
        hidden_features: widths of the hidden layers.
        context: whether the nets depend on the encoder's context.
        scales: factors of the parameters of each element, one per parameter, beside 1 / sqrt(K).
    """

    degrees: Tensor

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        context_features: int,
        *,
        num_transforms: int,
        hidden_features: Sequence[int],
        context: bool,
        scales: Sequence[float],
    ) -> None:
        super().__init__()
        self.context_features = context_features if context else 0
        order = 1 + torch.arange(prod(latent_shape))
        orders = [order if k % 2 == 0 else order.flip(0) for k in range(num_transforms)]
        self.register_buffer("degrees", torch.stack(orders), persistent=False)
        scales = [scale * num_transforms**-0.5 for scale in scales]
        self.nets = nn.ModuleList(
            MaskedMLP(degrees, hidden_features, len(scales), self.context_features, scales=scales) for degrees in orders
        )

    def context_terms(self, context: Tensor) -> Sequence[Tensor | None]:
        """The contribution of a context, shape (batch, context_features), to each net."""
        return context_terms(list(self.nets), context if self.context_features else None)
