"""Weight norm, in place and taken out again."""

import copy
from typing import Any

from torch import nn
from torch.nn.utils import parametrizations, parametrize


def norm_weights(module: nn.Module) -> None:
    """Split the weights of all linear and convolutional layers into direction and magnitude, one per output.

    Salimans & Kingma 2016, arXiv:1602.07868, equation 2, as torch's parametrization.
    """
    for layer in list(module.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            parametrizations.weight_norm(layer)


def zero_layer(layer: nn.Linear | nn.Conv2d) -> None:
    """Start as the constant function 0; under weight norm by the magnitude, since a direction cannot be 0."""
    normed = parametrize.is_parametrized(layer, "weight")
    nn.init.zeros_(layer.parametrizations.weight.original0 if normed else layer.weight)
    nn.init.zeros_(layer.bias)


def plain_weights(module: nn.Module) -> nn.Module:
    """What computes the same without weight norm, whose layers cannot be pickled.

    Returns:
        a copy; `module` itself if it has none.
    """
    normed = [layer for layer in module.modules() if parametrize.is_parametrized(layer, "weight")]
    return copy.deepcopy(module, {id(layer): plain_layer(layer) for layer in normed}) if normed else module


def plain_layer(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """One with the weights that the parametrization makes, which torch can only remove in place."""
    settings: dict[str, Any] = {"bias": layer.bias is not None}
    if isinstance(layer, nn.Linear):
        plain = nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features, **settings)
    else:
        settings |= {"kernel_size": layer.kernel_size, "padding": layer.padding}
        plain = nn.utils.skip_init(nn.Conv2d, layer.in_channels, layer.out_channels, **settings)
    plain = plain.to(layer.weight).train(layer.training)
    plain.weight.data.copy_(layer.weight)
    if layer.bias is not None:
        plain.bias.data.copy_(layer.bias)
    return plain
