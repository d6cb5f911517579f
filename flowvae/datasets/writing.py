"""Writing prepared images: .npy files in pieces, so that a data set may be larger than memory."""

import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from flowvae.data.arrays import LABELS, PROVENANCE, SOURCE, SPLITS, ArrayInfo, Metadata, Provenance
from flowvae.datasets.raw import RawArrays, RawDataset, RawFiles
from flowvae.files import sha256, write_atomically
from flowvae.labels import write_train_labels

CHUNK, CHUNK_BYTES = 500, 16 << 20  # images written at a time; fewer if they are large
Binarize = Callable[[Iterable[Tensor], int], Iterator[Tensor]]


@dataclass(frozen=True)
class Preparation:
    """What was done to a data set; the other fields are those of `ArrayInfo` and `Provenance`.

    Args:
        source: what `fetch` had found.
    """

    source: Mapping[str, Any]
    binarization: str
    binarization_seed: int
    corrupt: dict[str, int]
    banner: str | None


def write_arrays(folder: Path, dataset: RawDataset, binarize: Binarize, preparation: Preparation) -> Metadata:
    """Write `<split>.npy`, labels, what each means into a .json file beside it, and where they come from.

    Args:
        folder: created if necessary.
        dataset: decoded images; only a few of them are in memory at a time.
        binarize: (chunks of the images of a split, number of the split) -> the chunks to write.
        preparation: the rest of the metadata.
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
    write_atomically(folder / f"{LABELS}.npy", buffer.getvalue())
    write_train_labels(folder, dataset.train_labels, len(arrays["train"]))
    shapes = {split: (len(images), *images.image_shape) for split, images in arrays.items()}
    metadata = Metadata(
        arrays={
            split: ArrayInfo(shape=shape, binarization=preparation.binarization, sha256=sha256(folder / f"{split}.npy"))
            for split, shape in shapes.items()
        }
        | {
            LABELS: ArrayInfo(
                shape=dataset.test_labels.shape, binarization=None, sha256=sha256(folder / f"{LABELS}.npy")
            )
        },
        provenance=Provenance(
            dataset=dataset.dataset,
            origin=dataset.origin,
            binarization_seed=preparation.binarization_seed,
            split=dataset.split,
            processing=dataset.processing,
            corrupt=preparation.corrupt,
            banner=preparation.banner,
        ),
    )
    for name, info in metadata.arrays.items():
        write_json(folder / f"{name}.json", info.model_dump(mode="json"))
    write_json(folder / PROVENANCE, metadata.provenance.model_dump(mode="json"))
    write_json(folder / SOURCE, preparation.source)
    return metadata


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


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
