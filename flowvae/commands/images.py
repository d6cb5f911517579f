"""Images that a command is called with: files, folders and arrays, brought to the shape of a model's images."""

import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from flowvae.config import MAX_PIXEL, ImageShape
from flowvae.datasets.binarization import binarize
from flowvae.datasets.decoder import DecodeOptions, decode, fitted, register_plugins
from flowvae.datasets.image_files import find_images
from flowvae.errors import InputError

ARRAYS = (".npy", ".npz")
BINARIZATIONS = {"threshold": "threshold", "draw": "static"}  # as data.binarization calls them
HOW = {"threshold": "values above half become 1", "draw": "1 drawn in proportion to the value"}


class Images(NamedTuple):
    """Images as a model takes them.

    Attributes:
        names: of the files, or positions in arrays.
        pixels: uint8, bits or 8-bit values, shape (N, C, H, W).
        note: how grey values became bits; None if they did not.
    """

    names: list[str]
    pixels: torch.Tensor
    note: str | None


def read_images(paths: Iterable[Path], shape: ImageShape, *, of_bits: bool, binarization: str, seed: int) -> Images:
    """Read images in the order in which they are named, those of a folder sorted by name.

    Args:
        paths: image files, folders of them, or arrays.
        shape: (C, H, W) of the model's images.
        of_bits: whether these are bits, not 8-bit values.
        binarization: threshold or draw.
        seed: of the draw.

    Raises:
        InputError: a file cannot be read, or there are no images.
    """
    names: list[str] = []
    parts: list[np.ndarray] = []
    for path in paths:
        for name, some in parts_of(path, shape, of_bits=of_bits):
            names += [name] if len(some) == 1 else [f"{name}[{i}]" for i in range(len(some))]
            parts.append(some)
    grey = torch.from_numpy(np.concatenate(parts))
    if not of_bits:
        return Images(names, grey, None)
    (bits,) = binarize([grey], BINARIZATIONS[binarization], seed, 0)
    are_bits = ((grey == 0) | (grey == MAX_PIXEL)).all()
    return Images(names, bits, None if are_bits else f"grey values became bits by {binarization}: {HOW[binarization]}")


def parts_of(path: Path, shape: ImageShape, *, of_bits: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Names and 8-bit values of the images that a path means, shape (n, C, H, W) each.

    Raises:
        InputError: as for `read_images`.
    """
    if path.suffix.lower() in ARRAYS and path.is_file():
        array = as_levels(path, read_array(path), of_bits=of_bits)
        yield str(path), resized(path, as_batch(path, array, shape), shape)
        return
    options = options_for(path, shape)
    for file in files_in(path) if path.is_dir() else [path]:
        yield str(file), np.frombuffer(decoded(file, options), np.uint8).reshape(1, *shape)


def options_for(path: Path, shape: ImageShape) -> DecodeOptions:
    """How image files become images of a shape.

    Raises:
        InputError: they have neither one channel nor three.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise InputError(
            f"{path}: the model's images have {channels} channels; expected .npy or .npz arrays of {shape}"
        )
    return {"size": (height, width), "color": channels > 1, "crop": None, "invert": False}


def files_in(folder: Path) -> list[Path]:
    """The image files in a folder and its folders, sorted.

    Raises:
        InputError: there are none, or it cannot be read.
    """
    try:
        found = find_images(folder)
    except InputError as error:
        raise InputError(str(error).removeprefix("data.folder.path: ")) from error
    if not found.images:
        raise InputError(f"{folder}: contains no images")
    return [folder / name for name in found.images]


def decoded(file: Path, options: DecodeOptions) -> bytes:
    """The values of an image file.

    Raises:
        InputError: it cannot be read.
    """
    register_plugins()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on metadata
            return decode(str(file), options)
    except Exception as error:  # Pillow may raise anything for a damaged file
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{file}: cannot be read as an image ({reason.replace(repr(str(file)), 'it')})") from error


def read_array(path: Path) -> np.ndarray:
    """The array in a .npy file; of a .npz file the one named images, or its only one.

    Raises:
        InputError: the file is damaged, or has several arrays, none of them named images.
    """
    try:
        with path.open("rb") as file:  # np.load leaves a damaged file open
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            names = loaded.files
            if "images" in names or len(names) == 1:
                return np.asarray(loaded["images" if "images" in names else names[0]])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as arrays ({reason})") from error
    raise InputError(f"{path}: expected an array named images, or a single one, got {', '.join(names) or 'nothing'}")


def as_levels(path: Path, array: np.ndarray, *, of_bits: bool) -> np.ndarray:
    """The values of an array from 0 to 255, where bits are 0 and 255 for a model of bits.

    Raises:
        InputError: they are neither bits, nor integers from 0 to 255, nor numbers from 0 to 1.
    """
    if not array.size:
        raise InputError(f"{path}: has no images")
    if array.dtype.kind not in "biuf" or not (array.min() >= 0 and array.max() <= MAX_PIXEL):
        raise InputError(f"{path}: expected integers from 0 to 255, or numbers from 0 to 1, got {array.dtype}")
    if array.dtype.kind == "f" and array.max() > 1:
        raise InputError(f"{path}: expected numbers from 0 to 1, got {array.max():g}; convert 8-bit values to uint8")
    scaled = array.dtype.kind in "bf" or (of_bits and array.max() <= 1)
    return (np.round(array.astype(np.float64) * MAX_PIXEL) if scaled else array).astype(np.uint8)


def as_batch(path: Path, array: np.ndarray, shape: ImageShape) -> np.ndarray:
    """An array of one image or several as (N, C, H, W): first as the model's shape says, then by its number of axes.

    Raises:
        InputError: it has the shape of no images.
    """
    channels, height, width = shape
    last = (height, width, channels)
    for inner, to_batch in (
        (shape, lambda some: some),
        (last, lambda some: some.transpose(0, 3, 1, 2)),
        *([((height, width), lambda some: some[:, None])] if channels == 1 else []),
    ):
        if array.shape[-len(inner) :] == inner and array.ndim - len(inner) in (0, 1):
            return to_batch(array.reshape(-1, *inner))
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim in (3, 4) and array.shape[-1] in (1, 3):
        return array.reshape(-1, *array.shape[-3:]).transpose(0, 3, 1, 2)
    if array.ndim in (2, 3):
        return array.reshape(-1, 1, *array.shape[-2:])
    raise InputError(f"{path}: expected images of shape {shape} or {last}, got an array of shape {array.shape}")


def resized(path: Path, images: np.ndarray, shape: ImageShape) -> np.ndarray:
    """Images of another shape as those that are read from files; those of this shape as they are.

    Raises:
        InputError: they cannot be resized.
    """
    if images.shape[1:] == shape:
        return images
    options = options_for(path, shape)
    pictures = (Image.fromarray(np.ascontiguousarray(as_picture(image))) for image in images)
    return np.stack([np.frombuffer(fitted(picture, options), np.uint8).reshape(shape) for picture in pictures])


def as_picture(image: np.ndarray) -> np.ndarray:
    """(C, H, W) as Pillow has it: (H, W), or in colour (H, W, 3)."""
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)
