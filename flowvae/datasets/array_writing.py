"""Images of your own from Python: arrays, tensors, torch Datasets and data sets of Hugging Face become .npy files."""

import operator
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from flowvae.config import MAX_PIXEL, ImageShape
from flowvae.datasets.decoder import to_8_bits
from flowvae.files import write_atomically

CHANNELS = (1, 3)
GREY = {"1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N"}  # Pillow's modes of one channel


def write_images(
    folder: Path | str,
    train: Any,
    test: Any = None,
    valid: Any = None,
    *,
    image_key: str = "image",
    label_key: str = "label",
) -> ImageShape:
    """Write images as the .npy files that `data.name: arrays` reads. One image at a time is in memory.

    Images are arrays, tensors or images of Pillow, all of one size: integers from 0 to 255, numbers from 0 to 1, or
    bits; of shape (H, W), (C, H, W) or (H, W, C) with one or three channels. They may come in an array or tensor, a
    torch Dataset, a data set of Hugging Face or any iterable, alone, in tuples (image, label) or in mappings.

    Args:
        folder: to write, for `data.arrays.path`; new or empty.
        train, test, valid: images. Without `test` and `valid`, the stage `prepare` draws them from `train`; without
            `valid`, it draws that.
        image_key, label_key: of mappings, as the rows of Hugging Face are. Labels are optional.

    Returns:
        (C, H, W), for `data.arrays.shape`.

    Raises:
        ValueError: the folder is not empty, or something is no image, or images differ in size. Nothing is written.
    """
    given = {"images": train} if test is None else {"train": train, "test": test}
    if valid is not None:
        given["valid"] = valid
    if len(given) > 1 and test is None:
        raise ValueError("expected test images beside validation images, got none")
    target = Path(folder).absolute()
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"expected a new or empty folder, got {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", suffix=".partial", dir=target.parent) as partial:
        new = Path(partial) / target.name
        shapes = {name: write_array(new, name, pairs(images, image_key, label_key)) for name, images in given.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"expected images of one shape, got {shapes}")
        new.replace(target)
    return next(iter(shapes.values()))


def write_array(folder: Path, name: str, items: Iterable[tuple[Any, Any]]) -> ImageShape:
    """Write images into NAME.npy, and their labels, if all have one, into NAME_labels.npy.

    Returns:
        (C, H, W).

    Raises:
        ValueError: something is no image, images differ in shape, or there are none.
    """
    shapes: list[ImageShape] = []
    labels = array("q")

    def write(file: BinaryIO) -> None:
        count = 0
        for image, label in items:
            pixels = as_pixels(image, f"{name}: image {count}")
            if not shapes:
                shapes.append(pixels.shape)
                write_header(file, (0, *pixels.shape))
            if pixels.shape != shapes[0]:
                raise ValueError(f"{name}: expected images of one shape, got {shapes[0]} and {pixels.shape}")
            file.write(np.ascontiguousarray(pixels).data)
            count += 1
            if label is not None:
                labels.append(label)
        if not shapes:
            raise ValueError(f"{name}: expected images, got none")
        if len(labels) not in (0, count):
            raise ValueError(f"{name}: expected a label for each of {count} images or for none, got {len(labels)}")
        file.seek(0)
        write_header(file, (count, *shapes[0]))

    write_atomically(folder / f"{name}.npy", write)
    if labels:
        file = "labels" if name == "images" else f"{name}_labels"
        write_atomically(folder / f"{file}.npy", lambda target: np.save(target, np.asarray(labels)))
    return shapes[0]


def write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file of bytes. Its length does not depend on the number of images."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def pairs(images: Any, image_key: str, label_key: str) -> Iterator[tuple[Any, int | None]]:
    """Yield images with their labels, None for images without; the arguments are those of `write_images`.

    Raises:
        ValueError: a mapping has no such key.
    """
    for item in items_of(images):
        if isinstance(item, Mapping):
            if image_key not in item:
                raise ValueError(f"expected images under the key {image_key!r}, got keys {', '.join(map(repr, item))}")
            yield item[image_key], as_label(item.get(label_key))
        elif isinstance(item, tuple | list):
            yield item[0], as_label(item[1]) if len(item) > 1 else None
        else:
            yield item, None


def items_of(images: Any) -> Iterator[Any]:
    """All items of an array, a data set or an iterable, in order.

    Raises:
        ValueError: it is none of these.
    """
    if hasattr(images, "__iter__"):
        return iter(images)
    if hasattr(images, "__getitem__") and hasattr(images, "__len__"):  # as torch's Datasets
        return (images[i] for i in range(len(images)))
    raise ValueError(f"expected images in an array, a tensor, a data set or an iterable, got {type(images).__name__}")


def as_label(label: Any) -> int | None:
    """A label as an integer; None for anything that is none."""
    try:
        return operator.index(label)
    except TypeError:
        return None


def as_pixels(image: Any, name: str) -> np.ndarray:
    """An image as uint8, shape (C, H, W).

    Raises:
        ValueError: it is no image, or its values are out of range.
    """
    if isinstance(image, Image.Image):
        image = to_8_bits(image, "L" if image.mode in GREY else "RGB")
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim == 3 and pixels.shape[0] not in CHANNELS and pixels.shape[2] in CHANNELS:
        pixels = pixels.transpose(2, 0, 1)
    if pixels.ndim != 3 or pixels.shape[0] not in CHANNELS or not pixels.size:
        raise ValueError(f"{name}: expected shape (H, W), (C, H, W) or (H, W, C), got {pixels.shape}")
    return as_bytes(pixels, name)


def as_bytes(pixels: np.ndarray, name: str) -> np.ndarray:
    """Values of an image as uint8; numbers from 0 to 1 are rounded to 8 bits.

    Raises:
        ValueError: values are out of range.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels * np.uint8(MAX_PIXEL)
    largest = {"f": 1, "i": MAX_PIXEL, "u": MAX_PIXEL}.get(pixels.dtype.kind)
    if largest is None or not (pixels.min() >= 0 and pixels.max() <= largest):
        found = f"{pixels.dtype}" if largest is None else f"{pixels.min()} to {pixels.max()} ({pixels.dtype})"
        raise ValueError(f"{name}: expected integers from 0 to 255 or numbers from 0 to 1, got {found}")
    return np.rint(pixels * MAX_PIXEL if largest == 1 else pixels).astype(np.uint8)
