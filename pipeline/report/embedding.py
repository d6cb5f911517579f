"""Pictures inside pages."""

import base64
import io
import mimetypes
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from flowvae.errors import InputError

GREY_STEP = 17  # between 16 levels of grey from 0 to 255
COLOR_QUALITY = 70  # of WebP, up to 100
mimetypes.add_type("image/webp", ".webp")  # which not every version and machine knows


def data_uri(path: Path) -> str:
    """A picture as a data: URI.

    Raises:
        InputError: the file cannot be read.
    """
    media_type, _ = mimetypes.guess_type(path.name)
    return as_uri(str(media_type), read(path))


def compact_uri(path: Path) -> str:
    """A picture as a data: URI of few bytes: 16 levels of grey, or colours with losses.

    Raises:
        InputError: the file cannot be read.
    """
    file = io.BytesIO()
    try:
        with Image.open(io.BytesIO(read(path))) as image:
            if image.mode == "L":
                image.point(nearest_level).save(file, format="WEBP", lossless=True)
            else:
                image.convert("RGB").save(file, format="WEBP", quality=COLOR_QUALITY)
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path}: damaged, not a picture; delete it and run dvc repro") from error
    return as_uri("image/webp", file.getvalue())


def nearest_level(value: int) -> int:
    """The nearest of the 16 levels of grey."""
    return GREY_STEP * round(value / GREY_STEP)


def read(path: Path) -> bytes:
    """The content of a picture."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run dvc repro to create it") from error


def as_uri(media_type: str, content: bytes) -> str:
    """A data: URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
