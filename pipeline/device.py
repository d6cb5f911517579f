"""Where this process computes: from the environment, never from params.yaml."""

import os

import torch

from flowvae.errors import InputError


def pick_device() -> torch.device:
    """FLOWVAE_DEVICE if set, else the GPU where there is one, else the CPU with all its cores.

    Raises:
        InputError: FLOWVAE_DEVICE names no device of this machine.
    """
    name = os.environ.get("FLOWVAE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        torch.Generator(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"FLOWVAE_DEVICE: {name!r} cannot be used ({reason}); try cpu or cuda") from error
    if device.type == "cuda":  # on a CPU the same threads compute the same bits, and the switch takes 2 s
        torch.use_deterministic_algorithms(True)
    return device


def describe_device(device: torch.device) -> str:
    """For the record of timings."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
