"""Random numbers as a function of (seed, purpose, position), never of what was drawn before."""

import numpy as np
import torch

PURPOSES = ("binarization", "order", "latent", "importance", "split", "pairs", "subset", "prior", "population")


def generator(device: torch.device | str, seed: int, purpose: str, *position: int) -> torch.Generator:
    """A fresh generator, independent of those of every other (seed, purpose, position).

    Args:
        device: where it draws.
        seed: of the experiment.
        purpose: what is drawn, one of PURPOSES.
        position: where in the experiment, e.g. (epoch, step).
    """
    # As a spawn key, which keeps trailing zeros apart: as entropy, (1,) and (1, 0) are one seed.
    words = np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose), *position)).generate_state(2)
    low, high = (int(word) for word in words)
    return torch.Generator(device).manual_seed(low | (high >> 1) << 32)
