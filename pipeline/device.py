"""Where this process computes: from the environment, never from params.yaml."""

import ctypes
import os

import torch

from flowvae.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
MOST_KEPT, LARGEST_KEPT = 1 << 30, 32 << 20  # bytes; glibc takes no larger block


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


def keep_freed_memory() -> None:
    """Let malloc keep what a step frees for the next one, where malloc is glibc's.

    It would give the activations back to the kernel, and each step would fetch them again page by page: with large
    batches a tenth to a fifth of a step on a CPU (benchmarks/allocator.py).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
