"""Weight norm: applied in place, and removed from a copy."""

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrizations, parametrize

M = TypeVar("M", bound=nn.Module)


def norm_weights(module: nn.Module) -> None:
    """Apply weight norm to all linear and convolutional layers, with one direction and magnitude per output.

    Salimans & Kingma 2016, arXiv:1602.07868, equation 2, as torch's parametrization.
    """
    for layer in list(module.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            parametrizations.weight_norm(layer)


def zero_layer(layer: nn.Module) -> None:
    """Make a linear or convolutional layer return 0 for every input, until its parameters are changed.

    Under weight norm the magnitude is set to 0, because a direction cannot be 0.
    """
    has_weight_norm = parametrize.is_parametrized(layer, "weight")
    nn.init.zeros_(layer.get_parameter("parametrizations.weight.original0" if has_weight_norm else "weight"))
    nn.init.zeros_(layer.get_parameter("bias"))


def plain_weights(module: M) -> M:
    """Copy a module without weight norm, because layers with weight norm cannot be pickled.

    Returns:
        A copy that computes the same, or `module` itself if it has no weight norm.
    """
    plain_layers = {
        id(layer): plain_layer(layer)
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and parametrize.is_parametrized(layer, "weight")
    }
    return copy.deepcopy(module, plain_layers) if plain_layers else module


def plain_layer(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Build a plain layer with the weights that the parametrization computes; torch removes it only in place."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        plain = nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features, bias=bias)
    else:
        plain = nn.utils.skip_init(
            nn.Conv2d,
            layer.in_channels,
            layer.out_channels,
            kernel_size=layer.kernel_size,
            padding=layer.padding,
            bias=bias,
        )
    plain = plain.to(layer.weight).train(layer.training)
    plain.weight.data.copy_(layer.weight)
    if layer.bias is not None:
        plain.bias.data.copy_(layer.bias)
    return plain
