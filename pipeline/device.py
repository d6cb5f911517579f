"""The device of this process: from the environment, never from params.yaml."""

import ctypes
import os

import torch

from flowvae.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
MOST_KEPT, LARGEST_KEPT = 1 << 30, 32 << 20  # bytes in all and per block; glibc accepts no larger block


def pick_device() -> torch.device:
    """Choose FLOWVAE_DEVICE if set, else the GPU if there is one, else the CPU with all its cores.

    Raises:
        InputError: FLOWVAE_DEVICE is not a device of this machine.
    """
    name = os.environ.get("FLOWVAE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        torch.Generator(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"FLOWVAE_DEVICE: {name!r} cannot be used ({reason}); try cpu or cuda") from error
    if device.type == "cuda":  # not needed on a CPU, where this call takes 2 s
        torch.use_deterministic_algorithms(True)
    return device


def device_text(device: torch.device) -> str:
    """The device in words, for the record of timings."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


def keep_freed_memory() -> None:
    """Let glibc's malloc keep the memory that a step frees for the next step; does nothing with another malloc.

    By default, malloc returns the memory of activations to the kernel, and each step requests it again page by page.
    With large batches this takes 10 to 20% of a step on a CPU (benchmarks/allocator.py).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
