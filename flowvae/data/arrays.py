"""Prepared images on disk: one .npy file per split, with their metadata and checksums."""

import io
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, ValidationError
from torch import Tensor

from flowvae.config import Config, ImageShape
from flowvae.data.images import ImageSet
from flowvae.errors import InputError
from flowvae.files import sha256, write_atomically

METADATA = "metadata.json"
SPLITS = ("train", "valid", "test")


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
    banner: str | None  # what readers must know before they compare numbers
    sha256: Annotated[dict[str, str], _exactly(*SPLITS, "test_labels")]


def write_arrays(folder: Path, arrays: dict[str, Tensor], **metadata: object) -> Metadata:
    """Write uint8 arrays as `<name>.npy`, then `metadata.json`, which vouches for them.

    Args:
        folder: made if need be.
        arrays: images (N, C, H, W) for each of SPLITS, and `test_labels` (N,).
        metadata: the fields of `Metadata` that do not follow from the arrays.
    """
    for name, array in arrays.items():
        buffer = io.BytesIO()  # to a file, NumPy hides why a write failed
        np.save(buffer, array.numpy())
        write_atomically(folder / f"{name}.npy", buffer.getvalue())
    written = Metadata(
        counts={split: len(arrays[split]) for split in SPLITS},
        image_shape=tuple(arrays["train"].shape[1:]),
        sha256={name: sha256(folder / f"{name}.npy") for name in arrays},
        **metadata,
    )
    write_atomically(folder / METADATA, (written.model_dump_json(indent=2) + "\n").encode())
    return written


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
    """The images of a split: memory-mapped on the CPU, copied to any other device.

    Raises:
        InputError: the array is missing, damaged, or not the one that the metadata vouch for.
    """
    metadata = read_metadata(folder)
    pixels = _open_array(folder, split, metadata)
    expected = (metadata.counts[split], *metadata.image_shape)
    if pixels.shape != expected:
        raise InputError(
            f"{folder / split}.npy: expected shape {expected}, got {tuple(pixels.shape)}; run the stage 'prepare' again"
        )
    return ImageSet(pixels.to(device), dynamic=metadata.binarization == "dynamic")


def open_labels(folder: Path) -> Tensor:
    """Labels of the test images, uint8, shape (N,)."""
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
        # Copy-on-write: torch wants a writable buffer, and the file stays as it is.
        array = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except (ValueError, EOFError, TypeError) as error:
        raise InputError(f"{path}: damaged, not an array ({error}); run the stage 'prepare' again") from error
    if array.dtype != torch.uint8:
        raise InputError(f"{path}: expected uint8, got {array.dtype}; run the stage 'prepare' again")
    return array
