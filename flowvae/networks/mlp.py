"""Fully connected layers, with or without a context."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from flowvae.networks.weight_norm import norm_weights, zero_layer
from flowvae.statistics import BatchNorm


class MLP(nn.Module):
    """Fully connected layers with SiLU between them, optionally conditioned on a context.

    The context enters the first layer through a linear map of its own (see `context_terms`), so that
    it is computed once per image however many samples of that image there are.

    Args:
        in_features: size of the input's last axis.
        hidden_features: widths of the hidden layers; at least one.
        out_features: size of the output's last axis.
        context_features: size of the context's last axis; 0 for no context.
        weight_norm: every layer's weights are directions times magnitudes (see `norm_weights`).
        batch_norm: every hidden layer has batch norm before its SiLU, in place of a bias.
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
        """Start as the constant function 0."""
        zero_layer(self.rest[-1])
        return self


def context_terms(mlps: Sequence[MLP], context: Tensor | None) -> tuple[Tensor | None, ...]:
    """What a context adds to the first layer of each of several MLPs alike, in one matrix product.

    Args:
        mlps: with a context of the same size and a first hidden layer of the same width.
        context: shape (batch, context_features), or None where they have no context.

    Returns:
        one term per MLP, shape (batch, first hidden).
    """
    if context is None:
        return (None,) * len(mlps)
    weights = torch.cat([mlp.context.weight for mlp in mlps])
    return nn.functional.linear(context, weights).chunk(len(mlps), dim=-1)


def fully_connected(widths: Sequence[int], *, batch_norm: bool = False) -> nn.Sequential:
    """SiLU, Linear, SiLU, Linear, ...: maps pre-activations of widths[0] to widths[-1].

    With `batch_norm`, it comes before every SiLU, in place of the bias of the layer before.
    """
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(widths), start=2):
        layers += [BatchNorm(fan_in)] if batch_norm else []
        layers += [nn.SiLU(), nn.Linear(fan_in, fan_out, bias=not batch_norm or i == len(widths))]
    return nn.Sequential(*layers)
