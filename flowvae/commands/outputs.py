"""What commands write: grids of images, arrays and tables, each complete or absent."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowvae.config import MAX_PIXEL
from flowvae.errors import InputError
from flowvae.files import write_atomically
from flowvae.pictures import CHANNELS, PICTURE_COLUMNS, picture_of, write_png


def write_rows(path: Path, *sets: Tensor, columns: int = PICTURE_COLUMNS) -> None:
    """Write a picture: rows of images of the first set, each above those of the next.

    Args:
        path: of the .png file.
        sets: values in [0, 1], shape (N, C, H, W) each.
        columns: images in a row, at most.

    Raises:
        InputError: images have neither one channel nor three.
    """
    channels = sets[0].shape[1]
    if channels not in CHANNELS:
        raise InputError(f"--out: {path}: a picture has one channel or three, these images have {channels}; use .npz")
    write_png(path, picture_of(*sets, columns=columns))


def write_npz(path: Path, **arrays: Tensor | np.ndarray | Sequence[str]) -> None:
    """Write arrays with these names into a .npz file."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **{name: as_array(value) for name, value in arrays.items()})
    write_atomically(path, content.getvalue())


def as_array(value: Tensor | np.ndarray | Sequence[str]) -> np.ndarray:
    """A value as an array."""
    return value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; numbers are as long as a float32 needs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{cell:.9g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    write_atomically(path, text.getvalue().encode("utf-8", errors="surrogateescape"))


def as_pixels(images: Tensor, *, of_bits: bool) -> Tensor:
    """Draws from a likelihood as uint8: bits, or 0 to 255."""
    return images.to(torch.uint8) if of_bits else (images * MAX_PIXEL).round().to(torch.uint8)
