"""JSON, CSV and PNG files of the stages, each complete or absent."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowvae.errors import InputError
from flowvae.files import write_atomically


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Contents of a file that an earlier stage wrote.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run dvc repro to make it") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged, not JSON; delete it and run dvc repro") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: damaged, expected a JSON object; delete it and run dvc repro")
    return content


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header.

    Raises:
        InputError: it is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run dvc repro to make it") from error


def write_text(path: Path, text: str) -> None:
    write_atomically(path, text.encode("utf-8"))


def write_png(path: Path, ink: np.ndarray) -> None:
    """An image of ink: 0 is white, 1 black, shape (H, W); in colour (H, W, 3), the ink that takes red, green, blue."""
    image = Image.fromarray((255 * (1 - ink)).round().astype(np.uint8))
    write_atomically(path, lambda file: image.save(file, format="PNG", optimize=True))
