"""Random numbers as a function of (seed, purpose, position), independent of what was drawn before."""

import numpy as np
import torch

PURPOSES = ("binarization", "order", "latent", "importance", "split", "pairs", "subset", "prior", "population")


def generator(device: torch.device | str, seed: int, purpose: str, *position: int) -> torch.Generator:
    """Create a generator that is independent of those of every other (seed, purpose, position).

    Args:
        device: device of the numbers that it draws.
        seed: of the experiment.
        purpose: what the numbers are for, one of PURPOSES.
        position: position in the experiment, e.g. (epoch, step).
    """
    # Purpose and position are the spawn key and not part of the entropy, where (1,) and (1, 0) would be the same seed.
    words = np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose), *position)).generate_state(2)
    low, high = (int(word) for word in words)
    return torch.Generator(device).manual_seed(low | (high >> 1) << 32)
