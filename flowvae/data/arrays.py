"""Prepared images on disk: one .npy file per split, with their metadata and checksums."""

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, ValidationError
from torch import Tensor

from flowvae.config import Config, ImageShape
from flowvae.data.images import ImageSet, Reading
from flowvae.errors import InputError
from flowvae.files import sha256

SPLITS = ("train", "valid", "test")
METADATA = "metadata.json"
MAX_GPU_SHARE = 0.5  # of the free memory of a GPU, for images
# How the pixels are read under each `data.binarization`.
READINGS: dict[str, Reading] = {
    "static": "bits",
    "larochelle": "bits",
    "threshold": "bits",
    "dynamic": "dynamic",
    "none": "levels",
}


def is_eight_bit(binarization: str) -> bool:
    """Whether images stay 8-bit values under this `data.binarization`, instead of becoming bits."""
    return READINGS[binarization] == "levels"


def pixel_text(binarization: str) -> str:
    """Description of the pixels under this `data.binarization`."""
    return "8-bit values" if is_eight_bit(binarization) else f"{binarization} binarization"


def _exactly(*names: str) -> AfterValidator:
    """A mapping with exactly these keys."""

    def check(mapping: dict[str, Any]) -> dict[str, Any]:
        if set(mapping) != set(names):
            raise ValueError(f"expected the keys {', '.join(names)}, got {', '.join(mapping)}")
        return mapping

    return AfterValidator(check)


class Metadata(Config):
    """Description of the arrays, for the protocol of every number computed from them.

    Attributes:
        processing: description of what was done to the images; None for nothing.
        corrupt: number of images that were skipped because they could not be read, by split.
        fingerprint: hash of the files of a folder of images; None for other data sets.
        banner: warning that readers need before they compare numbers; None for the full data.
    """

    dataset: str
    source: str
    origin: str
    binarization: str
    binarization_seed: int
    split: str
    counts: Annotated[dict[str, int], _exactly(*SPLITS)]
    image_shape: ImageShape
    processing: str | None
    corrupt: Annotated[dict[str, int], _exactly(*SPLITS)]
    fingerprint: str | None
    banner: str | None
    sha256: Annotated[dict[str, str], _exactly(*SPLITS, "test_labels")]


def read_metadata(folder: Path) -> Metadata:
    """Read the metadata of prepared images.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = folder / METADATA
    try:
        return Metadata.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run the stage 'prepare' first") from error
    except (ValueError, ValidationError) as error:
        raise InputError(f"{path}: damaged; run the stage 'prepare' again") from error


def open_images(folder: Path, split: str, device: torch.device) -> ImageSet:
    """Open the images of a split.

    They are memory-mapped on a CPU and copied to any other device if they fit there. If they do not fit, they stay
    memory-mapped, and each batch is copied to the device.

    Raises:
        InputError: the array is missing, damaged, or does not match its metadata.
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
    pixels = pixels.to(device) if fits(pixels.nbytes, device) else pixels
    return ImageSet(pixels, READINGS[metadata.binarization], device)


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether images of this size may be copied to a device. On a CPU they are mapped and need no memory."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return num_bytes <= MAX_GPU_SHARE * free


def open_labels(folder: Path) -> Tensor:
    """Labels of the test images, integers, shape (N,).

    Raises:
        InputError: the array is missing, damaged, or does not match its metadata.
    """
    return _open_array(folder, "test_labels", read_metadata(folder))


def _open_array(folder: Path, name: str, metadata: Metadata) -> Tensor:
    path = folder / f"{name}.npy"
    try:
        digest = sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run the stage 'prepare' again") from error
    if digest != metadata.sha256[name]:
        raise InputError(f"{path}: damaged, its checksum is not the one in {METADATA}; run the stage 'prepare' again")
    try:
        return memory_map(path)
    except (ValueError, EOFError, TypeError) as error:
        raise InputError(f"{path}: damaged, not an array ({error}); run the stage 'prepare' again") from error


def memory_map(path: Path) -> Tensor:
    """Map a .npy file, which may be larger than memory. Writing to the tensor ends the process.

    The map is read-only: the kernel refuses a writable map of a file that does not fit into memory, even a private one.
    """
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
