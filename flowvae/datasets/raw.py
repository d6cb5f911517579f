"""Images before `prepare` writes them: rows of arrays, or files to be decoded; and a data set of them, split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from flowvae.config import ImageShape
from flowvae.data.images import shape_of_images
from flowvae.datasets.decoder import DecodeOptions
from flowvae.errors import InputError
from flowvae.randomness import generator

Labels = Sequence[int] | np.ndarray | torch.Tensor


@dataclass(frozen=True)
class RawArrays:
    """Images selected from arrays, which may be memory maps.

    Args:
        parts: arrays of uint8, shape (N, C, H, W) each, and the rows selected from each, in order.
    """

    parts: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    def of(cls, array: np.ndarray, indices: np.ndarray | None = None) -> "RawArrays":
        """Rows of one array: those that `indices` selects, or all."""
        return cls(((array, np.arange(len(array)) if indices is None else indices),))

    def __len__(self) -> int:
        return sum(len(indices) for _, indices in self.parts)

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W)."""
        return shape_of_images(self.parts[0][0].shape)

    def pick(self, indices: np.ndarray) -> "RawArrays":
        """The images at some positions of a set with a single part."""
        ((array, rows),) = self.parts
        return RawArrays.of(array, rows[indices])

    def labels(self, *of_parts: Labels) -> np.ndarray:
        """Labels of the images, given those of the whole array of each part."""
        pairs = zip(of_parts, self.parts, strict=True)
        return np.concatenate([as_labels(labels)[rows] for labels, (_, rows) in pairs])

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """All images in order, at most `size` at a time."""
        for array, indices in self.parts:
            for start in range(0, len(indices), size):
                yield np.asarray(array[indices[start : start + size]])


@dataclass(frozen=True)
class RawFiles:
    """Image files to be decoded.

    Args:
        folder: common parent of all files, or the uncompressed tar archive that holds them.
        names: of the files, relative to the folder, separated by /.
        options: how to decode them.
        spans: where an archive holds the files: offset and size in bytes, shape (N, 2). None for a folder.
    """

    folder: Path
    names: Sequence[str]
    options: DecodeOptions
    spans: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W) once decoded."""
        height, width = self.options["size"]
        return (3 if self.options["color"] else 1, height, width)

    def pick(self, indices: np.ndarray) -> "RawFiles":
        """The files at some positions."""
        spans = None if self.spans is None else self.spans[indices]
        return RawFiles(self.folder, [self.names[i] for i in indices], self.options, spans)


@dataclass(frozen=True)
class RawDataset:
    """The images of one data set, split.

    Args:
        images: by split.
        test_labels: integers, of the test images, shape (N,).
        dataset: name in a protocol.
        origin: who made the files.
        split: description of the split.
        processing: description of what was done to the images; None for nothing.
        bits: whether the images are already bits, not grey values or colours.
        banner: warning that readers need before they compare numbers; None for the full data.
        note: what else a user should know; it is not part of the protocol.
        train_labels: of the training images, with the numbers of `test_labels`; None if there are none.
        skipped: path and reason of each image that could not be read and is not among the images, by split; '' is the
            split of images that were to be drawn.
    """

    images: Mapping[str, RawArrays | RawFiles]
    test_labels: np.ndarray
    dataset: str
    origin: str
    split: str
    processing: str | None = None
    bits: bool = False
    banner: str | None = None
    note: str | None = None
    train_labels: np.ndarray | None = None
    skipped: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, RawFiles]:
        """The splits whose images are still files."""
        return {split: images for split, images in self.images.items() if isinstance(images, RawFiles)}


def held_out(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a random fraction of images to hold out.

    Args:
        count: number of images.
        fraction: to hold out; at least one image is.
        seed: of the draw.

    Returns:
        Indices of the images to keep and of those held out, both ascending.

    Raises:
        InputError: no image would be kept.
    """
    num_out = max(1, round(fraction * count))
    if num_out >= count:
        raise InputError(f"data: {count} images are too few to hold {num_out} of them out; add more")
    order = torch.randperm(count, generator=generator("cpu", seed, "split")).numpy()
    return np.sort(order[num_out:]), np.sort(order[:num_out])


def as_labels(labels: Labels) -> np.ndarray:
    """Class numbers as uint8, or as int64 if one does not fit."""
    array = np.asarray(labels, dtype=np.int64)
    return array.astype(np.uint8) if array.max(initial=0) < 256 else array
