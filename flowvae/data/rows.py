"""Images before they are written: rows of arrays, or files still to be decoded; and a set of them, split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowvae.errors import InputError
from flowvae.randomness import generator

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Rows:
    """Images picked from arrays, which may be memory maps.

    Args:
        parts: arrays of uint8, shape (N, C, H, W) each, and the rows that are picked from each, in order.
    """

    parts: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    def of(cls, array: np.ndarray, indices: np.ndarray | None = None) -> "Rows":
        """Rows of one array, all of them unless `indices` picks some."""
        return cls(((array, np.arange(len(array)) if indices is None else indices),))

    def __len__(self) -> int:
        return sum(len(indices) for _, indices in self.parts)

    def __add__(self, other: "Rows") -> "Rows":
        return Rows(self.parts + other.parts)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.parts[0][0].shape[1:])

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """All images in order, `size` at a time or fewer."""
        for array, indices in self.parts:
            for start in range(0, len(indices), size):
                yield np.asarray(array[indices[start : start + size]])


@dataclass(frozen=True)
class ImageFiles:
    """Image files, to be decoded.

    Args:
        folder: that all of them are under.
        names: of the files, relative to the folder, with /.
        how: the keyword arguments of `decoding.decode`, to be sent to other processes as JSON.
    """

    folder: Path
    names: Sequence[str]
    how: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) once decoded."""
        return (3 if self.how["color"] else 1, *self.how["size"])

    def pick(self, indices: np.ndarray) -> "ImageFiles":
        return ImageFiles(self.folder, [self.names[i] for i in indices], self.how)


@dataclass(frozen=True)
class Source:
    """Images of one origin, split.

    Args:
        images: by split.
        test_labels: integers, of the test images, shape (N,).
        dataset: what to call it in a protocol.
        origin: who made the files.
        split: how it was split, in words.
        processing: what was done to the images, in words; None: nothing.
        bits: the images are bits, not grey values or colours.
        banner: what readers must know before they compare numbers; None for the full data.
    """

    images: Mapping[str, Rows | ImageFiles]
    test_labels: np.ndarray
    dataset: str
    origin: str
    split: str
    processing: str | None = None
    bits: bool = False
    banner: str | None = None


def held_out(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of images to keep and of a random fraction to hold out, both in order.

    Args:
        count: of images.
        fraction: of them that is held out, at least one.
        seed: of the draw.

    Raises:
        InputError: nothing would be kept.
    """
    num_out = max(1, round(fraction * count))
    if num_out >= count:
        raise InputError(f"data: {count} images are too few to hold {num_out} of them out; add more")
    order = torch.randperm(count, generator=generator("cpu", seed, "split")).numpy()
    return np.sort(order[num_out:]), np.sort(order[:num_out])


def as_labels(labels: Sequence[int] | np.ndarray | torch.Tensor) -> np.ndarray:
    """Class numbers as uint8, or int64 where one does not fit."""
    labels = np.asarray(labels, dtype=np.int64)
    return labels.astype(np.uint8) if labels.max(initial=0) < 256 else labels
