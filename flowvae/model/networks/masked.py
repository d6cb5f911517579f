"""Autoregressive networks: Germain et al. 2015, "MADE", arXiv:1502.03509."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from flowvae.model.networks.weight_norm import zero_layer


class MaskedLinear(nn.Linear):
    """A linear layer without the connections where a mask is 0: y = scale * ((weight * mask) x + bias).

    Args:
        mask: 1 where an output may depend on an input, shape (out, in). The buffer `mask` is this times the scale, so
            that both take one product with the weights, and none with the outputs, of which a batch has more numbers.
        bias: whether outputs have one.
        scale: factor by which each output is multiplied, shape (out,); None for 1.
    """

    mask: Tensor
    scale: Tensor | None

    def __init__(self, mask: Tensor, *, bias: bool = True, scale: Tensor | None = None) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias=bias)
        mask = mask.to(self.weight.dtype)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("mask", mask if scale is None else scale[:, None] * mask, persistent=False)
        with torch.no_grad():  # each output keeps the scale that it has with all connections
            share = mask.mean(1, keepdim=True).clamp_min(1 / mask.shape[1])
            self.weight.mul_(mask * share.rsqrt())

    def forward(self, x: Tensor) -> Tensor:
        scale, bias = self.scale, self.bias
        return linear(x, self.weight * self.mask, bias if bias is None or scale is None else bias * scale)


class MaskedMLP(nn.Module):
    """Fully connected layers with SiLU between them, whose output d depends on the inputs before d in an order.

    Each hidden unit has a degree, and depends on inputs of at most this degree; output d depends on units of smaller
    degrees. The degrees are evenly spaced where the paper draws them, and none is above the highest of a later layer,
    which would leave the unit without effect. Direct connections let an output depend on all inputs before it also
    where hidden layers are narrower than the input. Hidden units of degree 0 depend on the context only; through them
    it reaches the first output. The last layers are initialised to zero.

    Args:
        degrees: position of each input in the order, from 1 to D, shape (D,).
        hidden_features: widths of the hidden layers; at least one.
        num_outputs: outputs per input.
        context_features: size of the context; 0 for none. It enters the first layer, as in `MLP`.
        scales: factors by which each of the outputs of an input is multiplied; None for 1.
    """

    def __init__(
        self,
        degrees: Tensor,
        hidden_features: Sequence[int],
        num_outputs: int,
        context_features: int = 0,
        *,
        scales: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        dim, lowest = len(degrees), 0 if context_features else min(1, len(degrees) - 1)
        hidden = hidden_degrees(lowest, dim, hidden_features)
        outputs = degrees.repeat(num_outputs)
        scale = None if scales is None else torch.tensor(scales).repeat_interleave(dim)
        self.first = MaskedLinear(hidden[0][:, None] >= degrees)
        self.context = nn.Linear(context_features, hidden_features[0], bias=False) if context_features else None
        layers = [MaskedLinear(after[:, None] >= before) for before, after in pairwise(hidden)]
        self.rest = nn.ModuleList([*layers, MaskedLinear(outputs[:, None] > hidden[-1], scale=scale)])
        self.direct = MaskedLinear(outputs[:, None] > degrees, bias=False, scale=scale)
        self.num_outputs = num_outputs
        zero_layer(self.rest[-1])
        nn.init.zeros_(self.direct.weight)

    def forward(self, z: Tensor, context_term: Tensor | None = None) -> Tensor:
        """z (*sample_shape, batch, D), context_term (batch, first hidden) -> (*sample_shape, batch, outputs, D)."""
        hidden = self.first(z)
        if context_term is not None:
            hidden = hidden + context_term
        for layer in self.rest:
            hidden = layer(silu(hidden))
        return hidden.add_(self.direct(z)).unflatten(-1, (self.num_outputs, -1))


def hidden_degrees(lowest: int, dim: int, widths: Sequence[int]) -> list[Tensor]:
    """Degrees of the units of each hidden layer, from `lowest` to dim - 1, shape (width,) each."""
    spaced = [lowest + torch.arange(width) * (dim - lowest) // width for width in widths]
    return [degrees.clamp_max(min(int(later[-1]) for later in spaced[i:])) for i, degrees in enumerate(spaced)]
