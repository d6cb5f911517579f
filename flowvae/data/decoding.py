"""A process that decodes image files: python -m flowvae.data.decoding, one line of JSON in, one out.

It imports Pillow and nothing heavier: it starts at once and weighs little, so there may be one per core. It ends when
its standard input does, hence with the process that started it, however that ends.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

WHITE = (255, 255, 255, 255)
MAX_16_BITS = 65535
# Of Pillow's modes that hold 16 bits, as "I" does with some formats: what brings their values to 0 ... 255.
SCALES = {"I": 1 / 257, "I;16": 1 / 257, "I;16B": 1 / 257, "I;16L": 1 / 257, "I;16N": 1 / 257}


def decode(path: str, *, size: Sequence[int], color: bool, crop: int | None, invert: bool) -> bytes:
    """An image file as the bytes of uint8 (C, H, W).

    The first frame, turned as its EXIF data say; what is transparent is white; 16-bit values are scaled to 8.

    Args:
        path: of the file.
        size: (H, W). What is cut out of the centre is resized to it, bilinearly over all pixels that a new one covers.
        color: three channels, or one of grey.
        crop: cut out a square of so many pixels a side; None: the largest part of the shape of `size`.
        invert: make black white.

    Raises:
        OSError, ValueError, SyntaxError: Pillow cannot read it.
    """
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        image = to_8_bits(image, "RGB" if color else "L")
    if crop and crop > min(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels, too few to cut out {crop} x {crop}")
    height, width = (crop, crop) if crop else largest(image.height, image.width, *size)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    if (height, width) != tuple(size):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    if invert:
        image = ImageOps.invert(image)
    return b"".join(band.tobytes() for band in image.split())


def to_8_bits(image: Image.Image, mode: str) -> Image.Image:
    """In mode L or RGB, on white.

    Raises:
        ValueError: its values have no known range, or no way leads to that mode.
    """
    if image.mode == "F":
        raise ValueError("floating-point values, whose range is not known")
    if image.mode == "I" and not 0 <= min(image.getextrema()) <= max(image.getextrema()) <= MAX_16_BITS:
        raise ValueError("32-bit values, whose range is not known")
    if image.mode in SCALES:
        scale = SCALES[image.mode]
        image = image.convert("I").point(lambda value: value * scale + 0.5).convert("L")
    if image.mode == "LAB":  # from which no way leads to grey
        image = image.convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return image.convert(mode)


def largest(height: int, width: int, *shape: int) -> tuple[int, int]:
    """Height and width of the largest part of an image that has the proportions of `shape`."""
    if height * shape[1] > width * shape[0]:  # too tall
        return max(1, round(width * shape[0] / shape[1])), width
    return height, max(1, round(height * shape[1] / shape[0]))


def decode_into(
    path: Path, offset: int, folder: Path, names: Sequence[str], how: dict[str, Any]
) -> list[tuple[int, str]]:
    """Write decoded images into a file one after another; those that cannot be read, and why.

    Args:
        path: the file, which is there.
        offset: of the first image, in bytes.
        folder, names: of the image files.
        how: the keyword arguments of `decode`.

    Returns:
        (position in `names`, reason) of each that cannot be read; its place is filled with zeros.

    Raises:
        OSError: nothing can be written; with the name of the file.
    """
    blank = bytes((3 if how["color"] else 1) * how["size"][0] * how["size"][1])
    images, corrupt = [], []
    for i, name in enumerate(names):
        try:
            images.append(decode(os.path.join(folder, name), **how))
        except Exception as error:  # whatever a damaged file makes Pillow raise
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            corrupt.append((i, reason.replace(repr(os.path.join(folder, name)), "it")))
            images.append(blank)
    try:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(b"".join(images))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return corrupt


def main() -> None:
    """Answer each request with {corrupt: ...}, or {errno, strerror, filename} if nothing can be written."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"corrupt": decode_into(Path(request.pop("path")), **request)}
        except OSError as error:
            answer = {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
