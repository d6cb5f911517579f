"""Images of users, checked against a likelihood."""

import torch
from torch import Tensor

from flowvae.config import MAX_PIXEL

ROUNDING = 0.25  # largest distance of 255 x from an integer; of k / 255 in float16 it is at most 0.07


def as_bytes(x: Tensor, *, of_bits: bool) -> Tensor:
    """Check the values of images, and convert them to bytes.

    Args:
        x: of any shape and type. Bits are 0 and 1; 8-bit values are integers from 0 to 255, or numbers k / 255.
        of_bits: whether the likelihood describes bits, not 8-bit values.

    Returns:
        uint8, 0 and 1 or 0 to 255, shape of x.

    Raises:
        ValueError: a value is not one of those.
    """
    values = x if x.dtype == torch.float64 else x.float()
    if of_bits:
        levels, wrong = values, (values != 0) & (values != 1)
        expected = "bits (0 and 1); binarize them, for example x > 0.5"
    else:
        levels = values * MAX_PIXEL if x.is_floating_point() else values
        wrong = ~((levels - levels.round()).abs() <= ROUNDING) | (levels < 0) | (levels > MAX_PIXEL)
        wrong |= torch.tensor(x.dtype == torch.bool, device=x.device)
        expected = "8-bit values: integers from 0 to 255, or numbers k / 255"
    if wrong.any():
        kind, low, high = str(x.dtype).removeprefix("torch."), values.min().item(), values.max().item()
        raise ValueError(f"expected images of {expected}; got {kind} from {low:g} to {high:g}")
    return levels.round().to(torch.uint8)
