"""Fully connected layers, with or without a context."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from flowvae.model.batch_norm import BatchNorm
from flowvae.model.networks.weight_norm import norm_weights, zero_layer


class MLP(nn.Module):
    """Fully connected layers with SiLU between them, optionally conditioned on a context.

    The context enters the first layer through a separate linear map (see `context_terms`), so that its contribution is
    computed once per image for any number of samples of that image.

    Args:
        in_features: size of the input's last axis.
        hidden_features: widths of the hidden layers; at least one.
        out_features: size of the output's last axis.
        context_features: size of the context's last axis; 0 for no context.
        weight_norm: whether every layer uses weight norm (see `norm_weights`).
        batch_norm: whether every hidden layer has batch norm before its SiLU instead of a bias.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: Sequence[int],
        out_features: int,
        context_features: int = 0,
        *,
        weight_norm: bool = False,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        first, *_ = hidden_features
        self.first = nn.Linear(in_features, first, bias=not batch_norm)
        self.context = nn.Linear(context_features, first, bias=False) if context_features else None
        self.rest = fully_connected((*hidden_features, out_features), batch_norm=batch_norm)
        if weight_norm:
            norm_weights(self)

    def forward(self, z: Tensor, context_term: Tensor | None = None) -> Tensor:
        """z (*sample_shape, batch, in), context_term (batch, first hidden) -> (*sample_shape, batch, out)."""
        hidden = self.first(z)
        if context_term is not None:
            hidden = hidden + context_term
        return self.rest(hidden)

    def zero_last(self) -> "MLP":
        """Initialise the last layer to zero, so that the MLP is the constant function 0; return the MLP."""
        zero_layer(self.rest[-1])
        return self


def context_terms(nets: Sequence[nn.Module], context: Tensor | None) -> tuple[Tensor | None, ...]:
    """Compute the context's contribution to the first hidden layer of several nets, in one matrix product.

    Args:
        nets: each with a linear layer `context`, all of the same size.
        context: shape (batch, context_features), or (batch, context_features, H, W) of a map; None if the nets have no
            context.

    Returns:
        One term per net, shape (batch, first hidden), or (batch, first hidden, H, W); None if there is no context.
    """
    if context is None:
        return (None,) * len(nets)
    layers = [net.context for net in nets]
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
    weight = torch.cat(weights)
    if context.dim() == 4:
        return nn.functional.conv2d(context, weight[..., None, None]).chunk(len(weights), dim=1)
    return nn.functional.linear(context, weight).chunk(len(weights), dim=-1)


def fully_connected(widths: Sequence[int], *, batch_norm: bool = False) -> nn.Sequential:
    """SiLU, Linear, SiLU, Linear, ...: maps pre-activations of widths[0] to widths[-1].

    With `batch_norm`, batch norm precedes every SiLU, and only the last layer has a bias.
    """
    layers: list[nn.Module] = []
    for i, (in_features, out_features) in enumerate(pairwise(widths), start=2):
        layers += [BatchNorm(in_features)] if batch_norm else []
        layers += [nn.SiLU(), nn.Linear(in_features, out_features, bias=not batch_norm or i == len(widths))]
    return nn.Sequential(*layers)
