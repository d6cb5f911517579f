"""What the readers of torchvision's data sets share: downloads, errors, and the split of the training images.

torchvision takes seconds to import, so it is imported only when images are downloaded or read.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from flowvae.datasets.config import DataConfig
from flowvae.datasets.raw import RawArrays, RawFiles, held_out
from flowvae.errors import InputError

RawImages = TypeVar("RawImages", RawArrays, RawFiles)


@contextmanager
def torchvision_errors(title: str, path: Path) -> Iterator[None]:
    """Turn any error of torchvision's into one line.

    Raises:
        InputError: files are missing or damaged.
    """
    try:
        yield
    except (RuntimeError, OSError, ValueError, AssertionError, KeyError, EOFError, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: not the files of {title}, or damaged ({reason}); delete them and provide correct ones"
        ) from error


def train_and_valid(images: RawImages, data: DataConfig) -> dict[str, RawImages]:
    """Split training images at random: `data.valid_fraction` of them are for validation."""
    kept, out = held_out(len(images), data.valid_fraction, data.seed)
    return {"train": images.pick(kept), "valid": images.pick(out)}


def split_text(data: DataConfig, training: str, test: str) -> str:
    """Description of a split whose validation images were drawn at random."""
    return f"{training} less {data.valid_fraction:.3g} of them drawn for validation (seed {data.seed}), {test}"


def grey_arrays(pixels: torch.Tensor) -> RawArrays:
    """Images of shape (N, H, W) as arrays of shape (N, 1, H, W)."""
    return RawArrays.of(pixels.numpy()[:, None])


def torchvision_download(name: str, calls: Sequence[dict[str, Any]]) -> None:
    """Download a data set with torchvision.

    Args:
        name: class in torchvision.datasets.
        calls: keyword arguments of each call; together they download the set.

    Raises:
        RuntimeError, OSError: the set is unavailable.
    """
    import torchvision

    for arguments in calls:
        getattr(torchvision.datasets, name)(**arguments, download=True)
