"""Writing prepared images: .npy files in pieces, so that a data set may be larger than memory."""

import io
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from flowvae.data.arrays import METADATA, SPLITS, Metadata
from flowvae.datasets.raw import RawArrays, RawDataset, RawFiles
from flowvae.files import sha256, write_atomically

CHUNK, CHUNK_BYTES = 500, 16 << 20  # images written at a time; fewer if they are large
Binarize = Callable[[Iterable[Tensor], int], Iterator[Tensor]]


@dataclass(frozen=True)
class Provenance:
    """The metadata that do not follow from the arrays; the fields are those of `Metadata`."""

    source: str
    binarization: str
    binarization_seed: int
    corrupt: dict[str, int]
    fingerprint: str | None
    banner: str | None


def write_arrays(folder: Path, dataset: RawDataset, binarize: Binarize, provenance: Provenance) -> Metadata:
    """Write `<split>.npy`, then `test_labels.npy`, then `metadata.json` with their checksums.

    Args:
        folder: created if necessary.
        dataset: decoded images; only a few of them are in memory at a time.
        binarize: (chunks of the images of a split, number of the split) -> the chunks to write.
        provenance: the rest of the metadata.
    """
    arrays = {split: decoded_images(dataset.images[split]) for split in SPLITS}
    for number, split in enumerate(SPLITS):
        images = arrays[split]
        size = min(CHUNK, max(1, CHUNK_BYTES // math.prod(images.image_shape)))
        chunks = map(torch.from_numpy, images.chunks(size))
        shape = (len(images), *images.image_shape)
        write_atomically(folder / f"{split}.npy", partial(_write_array, shape, binarize(chunks, number)))
    buffer = io.BytesIO()  # np.save to a file hides the reason if writing fails
    np.save(buffer, dataset.test_labels)
    write_atomically(folder / "test_labels.npy", buffer.getvalue())
    metadata = Metadata(
        dataset=dataset.dataset,
        source=provenance.source,
        origin=dataset.origin,
        binarization=provenance.binarization,
        binarization_seed=provenance.binarization_seed,
        split=dataset.split,
        counts={split: len(arrays[split]) for split in SPLITS},
        image_shape=arrays["train"].image_shape,
        processing=dataset.processing,
        corrupt=provenance.corrupt,
        fingerprint=provenance.fingerprint,
        banner=provenance.banner,
        sha256={name: sha256(folder / f"{name}.npy") for name in (*SPLITS, "test_labels")},
    )
    write_atomically(folder / METADATA, (metadata.model_dump_json(indent=2) + "\n").encode())
    return metadata


def decoded_images(images: RawArrays | RawFiles) -> RawArrays:
    """Images that are arrays already; files must be decoded first."""
    if isinstance(images, RawFiles):
        raise TypeError("expected decoded images, got files; call decode_dataset first")
    return images


def _write_array(shape: tuple[int, ...], chunks: Iterable[Tensor], file: BinaryIO) -> None:
    """Write uint8 chunks as np.save would write their concatenation."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for chunk in chunks:
        file.write(chunk.contiguous().numpy().data)
