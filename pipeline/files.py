"""JSON, CSV and text files of the stages, each complete or absent."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flowvae.errors import InputError
from flowvae.files import write_atomically


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that an earlier stage wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run dvc repro to create it") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged, not JSON; delete it and run dvc repro") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: damaged, expected a JSON object; delete it and run dvc repro")
    return content


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> None:
    """Write a CSV file with a header; values of other columns are left out, missing ones are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file with a header.

    Raises:
        InputError: the file is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run dvc repro to create it") from error


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8."""
    write_atomically(path, text.encode("utf-8"))
