"""Prepared images on disk: one .npy file per split, and beside it what it means, with its checksum.

What was done to get them is in files of their own, so results that do not depend on it do not depend on these files.
"""

import json
import warnings
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from flowvae.config import Config, ImageShape, PositiveInt
from flowvae.data.images import ImageSet, Reading, shape_of_images
from flowvae.errors import InputError
from flowvae.files import sha256

SPLITS = ("train", "valid", "test")
LABELS = "test_labels"
ARRAYS = (*SPLITS, LABELS)
PROVENANCE = "provenance.json"
SOURCE = "source.json"  # what `fetch` had found; only `fetch` reads it
DESCRIPTIONS = (*(f"{name}.json" for name in ARRAYS), PROVENANCE, SOURCE)
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


class ArrayInfo(Config):
    """What an array means: all that a result depends on, apart from the array.

    Attributes:
        shape: (N, C, H, W) of images, (N,) of labels.
        binarization: how grey values became bits; None for labels.
        sha256: of the .npy file.
    """

    shape: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1, max_length=4)]
    binarization: str | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W) of images."""
        return shape_of_images(self.shape)


class Provenance(Config):
    """Where the images come from and what was done to them, for the protocol of every number computed from them.

    Attributes:
        dataset: its name.
        origin: who made the files.
        binarization_seed: of the static draw.
        split: description of the split.
        processing: description of what was done to the images; None for nothing.
        corrupt: number of images that were skipped because they could not be read, by split.
        banner: warning that readers need before they compare numbers; None for the full data.
    """

    dataset: str
    origin: str
    binarization_seed: int
    split: str
    processing: str | None
    corrupt: dict[str, int]
    banner: str | None


class Metadata(Config):
    """All that is known of prepared images.

    Attributes:
        arrays: what each of ARRAYS means.
    """

    arrays: dict[str, ArrayInfo]
    provenance: Provenance

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W)."""
        return self.arrays["train"].image_shape

    @property
    def binarization(self) -> str:
        """How grey values became bits."""
        return str(self.arrays["train"].binarization)

    @property
    def counts(self) -> dict[str, int]:
        """Number of images in each split."""
        return {split: self.arrays[split].shape[0] for split in SPLITS}


def read_metadata(folder: Path) -> Metadata:
    """Read all that is known of prepared images.

    Raises:
        InputError: a file is missing or damaged.
    """
    return Metadata(
        arrays={name: read_info(folder, name) for name in ARRAYS},
        provenance=_read(folder / PROVENANCE, Provenance),
    )


def read_info(folder: Path, name: str) -> ArrayInfo:
    """Read what an array means.

    Args:
        folder: of prepared images.
        name: one of ARRAYS.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = folder / f"{name}.json"
    info = _read(path, ArrayInfo)
    if (len(info.shape), info.binarization in READINGS) != ((1, False) if name == LABELS else (4, True)):
        raise InputError(f"{path}: damaged; run the stage 'prepare' again")
    return info


_Content = TypeVar("_Content", bound=Config)


def _read(path: Path, kind: type[_Content]) -> _Content:
    try:
        return kind.model_validate(json.loads(path.read_bytes()))
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
    info = read_info(folder, split)
    pixels = _open_array(folder, split, info)
    if pixels.dtype != torch.uint8:
        raise InputError(f"{folder / split}.npy: expected uint8, got {pixels.dtype}; run the stage 'prepare' again")
    if pixels.shape != info.shape:
        raise InputError(
            f"{folder / split}.npy: expected shape {info.shape}, got {tuple(pixels.shape)}; run the stage 'prepare' "
            "again"
        )
    pixels = pixels.to(device) if fits(pixels.nbytes, device) else pixels
    return ImageSet(pixels, READINGS[str(info.binarization)], device)


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
    return _open_array(folder, LABELS, read_info(folder, LABELS))


def _open_array(folder: Path, name: str, info: ArrayInfo) -> Tensor:
    path = folder / f"{name}.npy"
    try:
        digest = sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run the stage 'prepare' again") from error
    if digest != info.sha256:
        raise InputError(f"{path}: damaged, its checksum is not the one in {name}.json; run the stage 'prepare' again")
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
