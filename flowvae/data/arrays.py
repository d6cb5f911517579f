"""Prepared images on disk: one .npy file per split, with their metadata and checksums."""

import io
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import torch
from pydantic import AfterValidator, ValidationError
from torch import Tensor

from flowvae.config import Config, ImageShape
from flowvae.data.images import ImageSet, Reading
from flowvae.data.rows import SPLITS, Rows
from flowvae.errors import InputError
from flowvae.files import sha256, write_atomically

METADATA = "metadata.json"
WRITTEN_AT_ONCE, BYTES_AT_ONCE = 500, 16 << 20  # images, fewer where they are large
MOST_OF_A_GPU = 0.5  # of its free memory, that images may take
READINGS: dict[str, Reading] = {
    "static": "bits",
    "larochelle": "bits",
    "threshold": "bits",
    "dynamic": "dynamic",
    "none": "levels",
}
WriteAs = Callable[[Iterable[Tensor], int], Iterator[Tensor]]


def _exactly(*names: str) -> AfterValidator:
    """A mapping with just these keys."""

    def check(mapping: dict[str, Any]) -> dict[str, Any]:
        if set(mapping) != set(names):
            raise ValueError(f"expected the keys {', '.join(names)}, got {', '.join(mapping)}")
        return mapping

    return AfterValidator(check)


class Metadata(Config):
    """What the arrays are, for the protocol of every number made from them."""

    dataset: str
    source: str
    origin: str
    binarization: str
    binarization_seed: int
    split: str
    counts: Annotated[dict[str, int], _exactly(*SPLITS)]
    image_shape: ImageShape
    processing: str | None  # what was done to the images, in words
    corrupt: Annotated[dict[str, int], _exactly(*SPLITS)]  # images left out because they could not be read
    fingerprint: str | None  # of the files of a folder of one's own
    banner: str | None  # what readers must know before they compare numbers
    sha256: Annotated[dict[str, str], _exactly(*SPLITS, "test_labels")]


def write_arrays(
    folder: Path, images: Mapping[str, Rows], test_labels: np.ndarray, write_as: WriteAs, **metadata: object
) -> Metadata:
    """Write images as `<split>.npy` and labels as `test_labels.npy`, then `metadata.json`, which vouches for them.

    Args:
        folder: made if need be.
        images: for each of SPLITS; never more than some of them are in memory.
        test_labels: integers, shape (N,).
        write_as: makes of the images of a split in chunks, and its number, what is written.
        metadata: the fields of `Metadata` that do not follow from the arrays.
    """
    for number, split in enumerate(SPLITS):
        rows = images[split]
        shape = (len(rows), *rows.image_shape)
        at_once = min(WRITTEN_AT_ONCE, max(1, BYTES_AT_ONCE // math.prod(rows.image_shape)))
        chunks = map(torch.from_numpy, rows.chunks(at_once))
        write_atomically(folder / f"{split}.npy", partial(_write_array, shape, write_as(chunks, number)))
    buffer = io.BytesIO()  # to a file, NumPy hides why a write failed
    np.save(buffer, test_labels)
    write_atomically(folder / "test_labels.npy", buffer.getvalue())
    written = Metadata(
        counts={split: len(images[split]) for split in SPLITS},
        image_shape=images["train"].image_shape,
        sha256={name: sha256(folder / f"{name}.npy") for name in (*SPLITS, "test_labels")},
        **metadata,
    )
    write_atomically(folder / METADATA, (written.model_dump_json(indent=2) + "\n").encode())
    return written


def _write_array(shape: tuple[int, ...], chunks: Iterable[Tensor], file: BinaryIO) -> None:
    """What np.save writes of all chunks together, uint8."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for chunk in chunks:
        file.write(chunk.contiguous().numpy().data)


def read_metadata(folder: Path) -> Metadata:
    """The metadata that `write_arrays` wrote.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / METADATA
    try:
        return Metadata.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run the stage 'prepare' first") from error
    except (ValueError, ValidationError) as error:
        raise InputError(f"{path}: damaged; run the stage 'prepare' again") from error


def open_images(folder: Path, split: str, device: torch.device) -> ImageSet:
    """The images of a split: memory-mapped for the CPU, and for another device copied to it where they fit.

    Where they don't, they stay memory-mapped, and each batch goes to the device.

    Raises:
        InputError: the array is missing, damaged, or not the one that the metadata vouch for.
    """
    metadata = read_metadata(folder)
    pixels = _open_array(folder, split, metadata)
    expected = (metadata.counts[split], *metadata.image_shape)
    if pixels.dtype != torch.uint8:
        raise InputError(f"{folder / split}.npy: expected uint8, got {pixels.dtype}; run the stage 'prepare' again")
    if pixels.shape != expected:
        raise InputError(
            f"{folder / split}.npy: expected shape {expected}, got {tuple(pixels.shape)}; run the stage 'prepare' again"
        )
    home = pixels.to(device) if fits(pixels.nbytes, device) else pixels
    return ImageSet(home, READINGS[metadata.binarization], device)


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether images of so many bytes may live on a device; the CPU's are mapped, and take no memory."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return num_bytes <= MOST_OF_A_GPU * free


def open_labels(folder: Path) -> Tensor:
    """Labels of the test images, integers, shape (N,)."""
    return _open_array(folder, "test_labels", read_metadata(folder))


def _open_array(folder: Path, name: str, metadata: Metadata) -> Tensor:
    path = folder / f"{name}.npy"
    try:
        found = sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run the stage 'prepare' again") from error
    if found != metadata.sha256[name]:
        raise InputError(f"{path}: damaged, its checksum is not the one in {METADATA}; run the stage 'prepare' again")
    try:
        return mapped(path)
    except (ValueError, EOFError, TypeError) as error:
        raise InputError(f"{path}: damaged, not an array ({error}); run the stage 'prepare' again") from error


def mapped(path: Path) -> Tensor:
    """The array of a .npy file, which may be larger than memory; to write to it ends the process.

    A map that may be written to, if only to private copies, is refused where memory could not hold all of it.
    """
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
