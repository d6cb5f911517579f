"""Files that are complete or absent."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write under a temporary name beside `path`, then rename; a failure leaves what was there.

    Args:
        path: the file; its folder is made if need be.
        content: bytes, or a function that writes to the open file.

    Raises:
        OSError: with the name of the file, which a failed write lacks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def pieces(path: Path, num_bytes: int = 1 << 20) -> Iterator[bytes]:
    """The content of a file, so many bytes at a time."""
    with path.open("rb") as file:
        while piece := file.read(num_bytes):
            yield piece


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    for piece in pieces(path):
        digest.update(piece)
    return digest.hexdigest()
