"""Files that are either complete or absent, and checksums."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a temporary file next to `path`, then rename it; if writing fails, the old file is kept.

    Args:
        path: the file; its folder is created if necessary.
        content: bytes, or a function that writes to the open file.

    Raises:
        OSError: the file cannot be written; unlike the original error, this one always names the file.
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
    """Yield the content of a file in pieces of at most `num_bytes` bytes."""
    with path.open("rb") as file:
        while piece := file.read(num_bytes):
            yield piece


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 checksum of a file, which is read in pieces."""
    digest = hashlib.sha256()
    for piece in pieces(path):
        digest.update(piece)
    return digest.hexdigest()


def sha256_of_files(root: Path, names: Iterable[str]) -> str:
    """Hexadecimal SHA-256 checksum over the names and contents of files.

    Args:
        root: their folder.
        names: of the files, relative to it, separated by /, in order.
    """
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{sha256(root / name)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
