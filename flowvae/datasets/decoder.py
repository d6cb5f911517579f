"""A process that decodes image files: python -m flowvae.datasets.decoder, one line of JSON in, one line out.

It imports Pillow and nothing heavier, so it starts quickly and needs little memory, and there can be one per core. It
ends when its standard input closes, hence also when the process that started it is killed.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TypedDict

from PIL import Image, ImageOps

WHITE = (255, 255, 255, 255)
MAX_16_BITS = 65535
# Pillow's modes with 16 bits, as "I" has with some formats, and the factor that brings their values to 0 ... 255.
SCALES = {"I": 1 / 257, "I;16": 1 / 257, "I;16B": 1 / 257, "I;16L": 1 / 257, "I;16N": 1 / 257}


class DecodeOptions(TypedDict):
    """How image files become arrays.

    Attributes:
        size: (height, width) of the result.
        color: three channels, or one of grey.
        crop: side of the square that is cropped from the centre; None crops the largest part with the proportions
            of `size`.
        invert: whether black becomes white.
    """

    size: tuple[int, int]
    color: bool
    crop: int | None
    invert: bool


class DecodeRequest(TypedDict):
    """One chunk of images to decode into a file.

    Attributes:
        path: file of the array, which exists.
        offset: of the first image, in bytes.
        folder, names: of the image files; the folder may be an archive that holds them.
        spans: offset and size of each file in the archive, in bytes; None for a folder.
        options: how to decode them.
    """

    path: str
    offset: int
    folder: str
    names: list[str]
    spans: list[tuple[int, int]] | None
    options: DecodeOptions


def register_plugins() -> None:
    """Let Pillow read HEIF, if the package pillow-heif is installed."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def decode(source: str | BytesIO, options: DecodeOptions) -> bytes:
    """Decode an image file: the first frame, rotated as EXIF says, transparency on white, 16-bit values scaled to 8.

    The crop is resized bilinearly, over all pixels that a new pixel covers.

    Args:
        source: path of the file, or its content.
        options: size, colour, crop and inversion.

    Returns:
        The bytes of a uint8 array, shape (C, H, W).

    Raises:
        OSError, ValueError, SyntaxError: Pillow cannot read the file.
    """
    with Image.open(source) as opened:
        return fitted(ImageOps.exif_transpose(opened), options)


def fitted(image: Image.Image, options: DecodeOptions) -> bytes:
    """Convert, crop and resize an image as `decode` does.

    Returns:
        The bytes of a uint8 array, shape (C, H, W).

    Raises:
        OSError, ValueError, SyntaxError: the image is damaged, too small, or of an unknown kind.
    """
    size, crop = tuple(options["size"]), options["crop"]
    image = to_8_bits(image, "RGB" if options["color"] else "L")
    if crop and crop > min(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels, too few for a crop of {crop} x {crop}")
    height, width = (crop, crop) if crop else largest_crop(image.height, image.width, *size)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    if (height, width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    if options["invert"]:
        image = ImageOps.invert(image)
    return b"".join(band.tobytes() for band in image.split())


def to_8_bits(image: Image.Image, mode: str) -> Image.Image:
    """Convert to mode L or RGB, on white.

    Raises:
        ValueError: the range of the values is unknown, or Pillow has no conversion to that mode.
    """
    if image.mode == "F":
        raise ValueError("floating-point values of unknown range")
    if image.mode == "I":
        low, high = image.getextrema()
        if not 0 <= low <= high <= MAX_16_BITS:  # type: ignore[operator]  # one channel, so two numbers
            raise ValueError("32-bit values of unknown range")
    if image.mode in SCALES:
        scale = SCALES[image.mode]
        image = image.convert("I").point(lambda value: value * scale + 0.5).convert("L")
    if image.mode == "LAB":  # Pillow has no conversion to grey
        image = image.convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return image.convert(mode)


def largest_crop(height: int, width: int, *shape: int) -> tuple[int, int]:
    """Height and width of the largest part of an image that has the proportions of `shape`."""
    if height * shape[1] > width * shape[0]:  # too tall
        return max(1, round(width * shape[0] / shape[1])), width
    return height, max(1, round(height * shape[1] / shape[0]))


def decode_into(request: DecodeRequest) -> list[tuple[int, str]]:
    """Decode the images of a request and write them into its file, one after another.

    Returns:
        (position in `names`, reason) of each image that cannot be read; zeros fill its place.

    Raises:
        OSError: the file cannot be written; the error has its name.
    """
    path, options = Path(request["path"]), request["options"]
    blank = bytes((3 if options["color"] else 1) * options["size"][0] * options["size"][1])
    images, corrupt = [], []
    for i in range(len(request["names"])):
        source: str | BytesIO | None = None
        try:
            source = image_source(request, i)
            images.append(decode(source, options))
        except Exception as error:  # Pillow may raise anything for a damaged file
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            corrupt.append((i, reason.replace(f" {source!r}", "")))  # readers see the name with the reason
            images.append(blank)
    write_at(path, request["offset"], images)
    return corrupt


def image_source(request: DecodeRequest, position: int) -> str | BytesIO:
    """Path of an image file of a request, or its content if an archive holds it.

    Raises:
        OSError: the archive cannot be read.
    """
    if request["spans"] is None:
        return os.path.join(request["folder"], request["names"][position])
    offset, size = request["spans"][position]
    with open(request["folder"], "rb") as archive:
        archive.seek(offset)
        return BytesIO(archive.read(size))


def write_at(path: Path, offset: int, images: Sequence[bytes]) -> None:
    """Overwrite a part of a file and wait until it is on disk.

    Raises:
        OSError: with the name of the file.
    """
    try:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(b"".join(images))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def main() -> None:
    """Answer each request with {corrupt: ...}, or with {errno, strerror, filename} if writing failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    register_plugins()
    for line in sys.stdin:
        answer: dict[str, object]
        try:
            answer = {"corrupt": decode_into(json.loads(line))}
        except OSError as error:
            answer = {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
