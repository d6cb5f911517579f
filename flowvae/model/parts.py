"""The parts of a VAE, each described by settings or given as a module of the user's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from flowvae.config import Config
from flowvae.model.flows import FlowConfig, build_flow

C = TypeVar("C", bound=Config)


def settings_of(part: C | nn.Module) -> C | None:
    """The settings of a part; None for a module of the user's own."""
    return None if isinstance(part, nn.Module) else part


def module_of(part: C | nn.Module, build: Callable[[C], nn.Module]) -> nn.Module:
    """The module that settings describe, or the module itself."""
    return part if isinstance(part, nn.Module) else build(part)


def used_context(part: Config | nn.Module) -> int:
    """The size of the context that a part uses or provides."""
    return int(getattr(part, "context_features", 0))


def flow_of(part: FlowConfig | nn.Module, latent_shape: tuple[int, ...], context_features: int) -> nn.Module:
    """The flow that settings describe, or the module itself.

    Raises:
        ValueError: the settings do not fit the latent shape, or ask for a context that there is not.
    """
    if isinstance(part, nn.Module):
        return part
    field = part.context_field
    if not context_features and field is not None and getattr(part, field):
        raise ValueError(
            f"expected an encoder that provides a context for {part.flow}, or {field}=False; "
            f"the attribute context_features of the encoder says how much it provides"
        )
    return build_flow(part, latent_shape, context_features)


def check_context(flow: nn.Module, available: int) -> None:
    """Raise ValueError if the flow of a posterior uses another context than an encoder of the user's own provides."""
    used = used_context(flow)
    if used not in (0, available):
        raise ValueError(
            f"expected an encoder that provides a context of {used} numbers, which the flow of the posterior uses, "
            f"got {available}; the attributes context_features of both say how many"
        )


def check_prior(flow: nn.Module, config: FlowConfig | None) -> None:
    """Raise ValueError unless the flow of a prior sees no context and can be inverted, without which it cannot be
    sampled.
    """
    name = config.flow if config else type(flow).__name__
    if used := used_context(flow):
        raise ValueError(f"expected a flow without a context in the prior, which sees no image; {name} uses {used}")
    with evaluating(flow):
        has_inverse = flow(torch.empty(1, 0)).has_inverse
    if not has_inverse:
        raise ValueError(
            f"expected a flow with an inverse in the prior, from which it is sampled; {name} has none and fits a "
            f"posterior only"
        )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A context in which a module is in evaluation mode."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
