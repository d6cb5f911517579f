"""Random numbers as a function of (seed, purpose, position), independent of what was drawn before."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

PURPOSES = (
    *("binarization", "order", "latent", "importance", "split", "pairs", "subset", "prior", "population", "units"),
    *("diagnostics", "pixels"),
)

WORDS_PER_STEP = 4


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


class NormalDraws:
    """Standard-normal draws of which each number is a function of seed, purpose, image, draw and dimension alone.

    Whichever images and draws are asked for together, on whichever device, they are the same numbers. They come from a
    counter-based generator, Philox 4x64 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), with one
    counter per image, through the inverse of the normal distribution function.

    Args:
        seed: of the experiment.
        purpose: what the numbers are for, one of PURPOSES.
        dim: D, numbers per draw.
    """

    def __init__(self, seed: int, purpose: str, dim: int) -> None:
        sequence = np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose),))
        self.key, self.dim = sequence.generate_state(2, np.uint64), dim

    def __call__(self, images: Tensor, draws: range, dtype: torch.dtype) -> Tensor:
        """Return draws of images.

        Args:
            images: positions of the images in the data set, shape (batch,).
            draws: numbers of consecutive draws of each image.
            dtype: of the result.

        Returns:
            Shape (draws, batch, D), on the device of `images`.
        """
        rows = [self._words(image, draws.start * self.dim, len(draws) * self.dim) for image in images.tolist()]
        words = np.stack(rows, axis=1) if rows else np.empty((len(draws) * self.dim, 0), np.uint64)
        uniform = torch.from_numpy(((words >> 11) + 0.5) * 2.0**-53)  # in (0, 1), shape (draws * D, batch)
        normal = torch.special.ndtri(uniform).unflatten(0, (len(draws), self.dim)).movedim(1, 2)
        return normal.to(images.device, dtype).contiguous()

    def _words(self, image: int, start: int, count: int) -> np.ndarray:
        """Numbers start to start + count of an image, uint64; the generator makes 4 at each step of its counter."""
        skipped = start % WORDS_PER_STEP
        counter = np.array([start // WORDS_PER_STEP, image, 0, 0], np.uint64)
        return np.random.Philox(key=self.key, counter=counter).random_raw(skipped + count)[skipped:]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A context in which the CPU's generator starts from a seed, and after which all generators are as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the generators of all GPUs
        yield
