"""Grids of images, and PNG files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from flowvae.files import write_atomically

GAP = 2  # pixels between images
GREY_STEP = 17  # between 16 levels of grey from 0 to 255
COLOR_QUALITY = 60  # of WebP, up to 100
TITLE_HEIGHT = 30  # pixels
TITLE_SIZE = 18  # pixels, of the font
PICTURE_COLUMNS = 16  # of a picture of images
PICTURE_SIDE = 56  # pixels in a picture, to which smaller images are enlarged
CHANNELS = (1, 3)  # of images that a picture can show


def image_grid(images: Tensor, zoom: int = 1) -> np.ndarray:
    """Arrange images in rows and columns on white.

    Args:
        images: ink in [0, 1], shape (rows, columns, C, H, W), with C = 1 or 3.
        zoom: pixels of the grid per pixel of an image.

    Returns:
        Ink, shape (rows * (H zoom + gap) + gap, columns * (W zoom + gap) + gap), in colour with a last axis of 3.
    """
    rows, columns, channels, height, width = images.shape
    step_y, step_x = height * zoom + GAP, width * zoom + GAP
    canvas = np.zeros((rows * step_y + GAP, columns * step_x + GAP, channels), np.float32)
    tiles = images.movedim(2, -1).cpu().numpy().repeat(zoom, axis=2).repeat(zoom, axis=3)
    for y in range(rows):
        for x in range(columns):
            top, left = GAP + y * step_y, GAP + x * step_x
            canvas[top : top + height * zoom, left : left + width * zoom] = tiles[y, x]
    return canvas if channels > 1 else canvas[..., 0]


def rows_of(ink: Tensor, columns: int) -> Tensor:
    """(N, C, H, W) -> (rows, columns, C, H, W), at most `columns`, the last row filled with blank images."""
    columns = min(columns, len(ink))
    blank = ink.new_zeros(-len(ink) % columns, *ink.shape[1:])
    return torch.cat((ink, blank)).unflatten(0, (-1, columns))


def as_ink(images: Tensor, *, eight_bit: bool) -> Tensor:
    """Ink on white paper: ones of binary images are black, and 8-bit images look as they are."""
    return 1 - images if eight_bit else images


def with_titles(ink: np.ndarray, titles: list[str]) -> np.ndarray:
    """Add a strip of titles above an image, each centred over its share of the width.

    Args:
        ink: shape (H, W) or (H, W, 3), in [0, 1].
        titles: from left to right.

    Returns:
        Shape (TITLE_HEIGHT + H, W), in colour with a last axis of 3.
    """
    width = ink.shape[1]
    strip = Image.new("L", (width, TITLE_HEIGHT))
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(TITLE_SIZE)
    for i, title in enumerate(titles):
        centre = (i + 0.5) * width / len(titles)
        draw.text((centre, TITLE_HEIGHT / 2), title, fill=255, font=font, anchor="mm")
    text = np.asarray(strip, np.float32) / 255
    if ink.ndim == 3:
        text = np.repeat(text[..., None], ink.shape[-1], axis=-1)
    return np.concatenate((text, ink))


def sheet(images: Tensor) -> np.ndarray:
    """Images of ink, shape (rows, columns, C, H, W), without gaps, as (rows H, columns W) or, in colour, with a 3."""
    rows, columns, channels, height, width = images.shape
    ink = images.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels).cpu().numpy()
    return ink if channels > 1 else ink[..., 0]


def write_webp(path: Path, ink: np.ndarray) -> None:
    """Write an image of ink in few bytes: 16 levels of grey, or colours with losses."""
    levels = 1 - ink.clip(0, 1)
    if ink.ndim == 3:
        image = Image.fromarray((255 * levels).round().astype(np.uint8))
        write_atomically(path, lambda file: image.save(file, format="WEBP", quality=COLOR_QUALITY))
        return
    image = Image.fromarray((GREY_STEP * (15 * levels).round()).astype(np.uint8))
    write_atomically(path, lambda file: image.save(file, format="WEBP", lossless=True))


def write_png(path: Path, ink: np.ndarray) -> None:
    """Write an image of ink: 0 is white, 1 black.

    Args:
        path: of the file.
        ink: shape (H, W); in colour (H, W, 3), the ink that absorbs red, green and blue.
    """
    image = Image.fromarray((255 * (1 - ink)).round().astype(np.uint8))
    write_atomically(path, lambda file: image.save(file, format="PNG", optimize=True))


def picture_of(*sets: Tensor, columns: int = PICTURE_COLUMNS) -> np.ndarray:
    """The ink of a picture: rows of images of the first set, each above those of the next; 1 is white.

    Args:
        sets: values in [0, 1], shape (N, C, H, W) each, where C is one of CHANNELS.
        columns: images in a row, at most.
    """
    rows = torch.stack([rows_of(as_ink(images, eight_bit=True), columns) for images in sets], dim=1).flatten(0, 1)
    return image_grid(rows, max(1, PICTURE_SIDE // max(rows.shape[-2:])))
