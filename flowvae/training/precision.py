"""Floating-point formats of the networks' forward passes."""

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """A context that runs networks in bfloat16 or leaves them unchanged.

    The VAE keeps the flow and all log densities in full precision.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
