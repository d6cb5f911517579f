"""Which pixels a mask of the command line marks as missing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flowvae.commands.images import ARRAYS, decoded, read_array
from flowvae.config import MAX_PIXEL, ImageShape
from flowvae.datasets.decoder import DecodeOptions
from flowvae.errors import InputError

HALVES = ("lower-half", "upper-half", "left-half", "right-half")


def read_mask(text: str, shape: ImageShape, count: int) -> np.ndarray:
    """Which pixels are missing, bool, shape (C, H, W) or (N, C, H, W).

    Args:
        text: an entry of HALVES, or the path of an image in which they are white, or of a .npy file in which they are
            not 0.
        shape: (C, H, W) of the images.
        count: N, number of images.

    Raises:
        InputError: there is no such half and no such file, its shape does not fit, or it marks no pixel.
    """
    _, height, width = shape
    missing, path = np.zeros(shape, bool), Path(text)
    if text in HALVES:
        missing[(slice(None), *half(text, height, width))] = True
    elif not path.is_file():
        raise InputError(f"--mask: expected {', '.join(HALVES)}, or a file, got {text}")
    elif path.suffix.lower() in ARRAYS:
        missing = fitting_mask(path, read_array(path) != 0, shape, count)
    else:
        options: DecodeOptions = {"size": (height, width), "color": False, "crop": None, "invert": False}
        grey = np.frombuffer(decoded(path, options), np.uint8).reshape(height, width)
        missing[:] = grey > MAX_PIXEL // 2
    if not missing.any():
        raise InputError(f"--mask: {text} marks no pixel as missing")
    return missing


def half(name: str, height: int, width: int) -> Sequence[slice]:
    """Rows and columns of a half of an image; the middle of an odd number belongs to the lower and the right half."""
    top, left = slice(None, height // 2), slice(None, width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    return {
        "lower-half": (bottom, slice(None)),
        "upper-half": (top, slice(None)),
        "left-half": (slice(None), left),
        "right-half": (slice(None), right),
    }[name]


def fitting_mask(path: Path, marked: np.ndarray, shape: ImageShape, count: int) -> np.ndarray:
    """The mask of an array for all channels of an image, or for each of N images.

    Raises:
        InputError: its shape does not fit.
    """
    if marked.shape in (shape, (count, *shape)):
        return marked
    if marked.shape in (shape[1:], (count, *shape[1:])):
        wide = np.expand_dims(marked, -3)
        return np.broadcast_to(wide, (*wide.shape[:-3], *shape))
    raise InputError(f"--mask: {path}: expected shape {shape[1:]}, {shape} or {(count, *shape)}, got {marked.shape}")
