"""Parameters of a flow: global, or an affine function of the context (amortised; arXiv:1505.05770, section 4.1)."""

from torch import Tensor, nn
from torch.nn.functional import linear


def context_head(parameters: nn.Parameter, context_features: int, *, amortised: bool) -> nn.Linear | None:
    """The linear map from the context to what is added to the parameters, 0 at first; None for global parameters."""
    if not amortised:
        return None
    head = nn.Linear(context_features, parameters.numel(), bias=False)
    nn.init.zeros_(head.weight)
    return head


def parameters_at(context: Tensor, parameters: nn.Parameter, head: nn.Linear | None) -> Tensor:
    """The parameters for a context, shape (batch, context_features).

    Args:
        context: not used without a head.
        parameters: their values for a context of 0, shape (K, ...).
        head: returned by `context_head`.

    Returns:
        Shape (batch, K, ...), or (K, ...) without a head.
    """
    if head is None:
        return parameters
    return linear(context, head.weight, parameters.flatten()).unflatten(-1, parameters.shape)
