"""Rows of shards: samples of WebDataset, or rows of Parquet, whose images become arrays."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from flowvae.datasets.config import ShardsConfig
from flowvae.datasets.decoder import DecodeOptions, decode, fitted

OBJECT = re.compile(r" <_io\.BytesIO object at \w+>")  # how Pillow calls an image that is not in a file


class DecodedRow(TypedDict):
    """An image of a shard.

    Attributes:
        pixels: bytes of a uint8 array, shape (C, H, W); empty if the image cannot be read.
        label: from 0; -1 for none.
        digest: 63 bits of the SHA-256 of the image as it is in the shard; an image's split follows from it.
        path: of the shard.
        problem: why the image cannot be read; empty if it can.
    """

    pixels: bytes
    label: int
    digest: int
    path: str
    problem: str


def decode_row(row: Mapping[str, Any], config: ShardsConfig) -> DecodedRow:
    """Decode the image of a row of a shard. It does not raise: a damaged image is described."""
    options = DecodeOptions(size=config.size, color=config.color, crop=None, invert=False)
    content = next((found for name in config.image if (found := content_of(row.get(name)))), b"")
    label = next((number for name in config.label if (number := label_of(row.get(name))) >= 0), -1)
    pixels, problem = b"", ""
    try:
        if not content:
            raise ValueError(f"no {' or '.join(config.image)} beside {', '.join(map(str, row))}")
        pixels = (
            fitted(raw_image(content, row["shape"]), options) if "shape" in row else decode(BytesIO(content), options)
        )
    except Exception as error:  # Pillow may raise anything for a damaged file
        problem = OBJECT.sub("", " ".join(str(error).split())) or type(error).__name__
    digest = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1
    return DecodedRow(pixels=pixels, label=label, digest=digest, path=str(row["path"]), problem=problem)


def content_of(value: Any) -> bytes:
    """The bytes of an image, which Hugging Face puts into a mapping; empty for anything else."""
    value = value.get("bytes") if isinstance(value, Mapping) else value
    return value if isinstance(value, bytes) else b""


def label_of(value: Any) -> int:
    """A label from 0, which WebDataset has as text; -1 for anything else."""
    try:
        return max(int(value), -1)
    except (TypeError, ValueError, OverflowError):
        return -1


def raw_image(content: bytes, shape: Sequence[int]) -> Image.Image:
    """An image from bytes of shape (H, W) or (H, W, C).

    Raises:
        ValueError: the bytes have another number.
    """
    pixels = np.frombuffer(content, np.uint8).reshape(tuple(map(int, shape)))
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
