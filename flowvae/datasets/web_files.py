"""Files of data sets that have a public address: their download and their checksums."""

import hashlib
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.error import HTTPError

from flowvae.errors import InputError
from flowvae.files import pieces, write_atomically

TIMEOUT = 30  # seconds without any answer
PIECE = 1 << 20  # bytes


class WebFile(NamedTuple):
    """A file with a public address.

    Args:
        path: relative to a data root, separated by /.
        address: of the original.
        md5: its checksum, as published by others who check it after their downloads.
    """

    path: str
    address: str
    md5: str


def download_file(file: WebFile, root: Path) -> None:
    """Download a file into a data root. It appears there only once it is complete.

    Raises:
        InputError: the server does not answer, or sends something else.
        OSError: the file cannot be written.
    """

    def copy(target: BinaryIO) -> None:
        digest = hashlib.md5(usedforsecurity=False)
        for piece in pieces_from(file.address):
            digest.update(piece)
            target.write(piece)
        if digest.hexdigest() != file.md5:
            raise InputError(f"{file.address}: sent a file with another checksum")

    write_atomically(root / file.path, copy)


def pieces_from(address: str) -> Iterator[bytes]:
    """Yield what a server sends.

    Raises:
        InputError: it does not answer, or stops answering.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "flowvae"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            while piece := response.read(PIECE):
                yield piece
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds a socket
        raise InputError(f"{address}: {' '.join(str(error).split()) or type(error).__name__}") from error


def checked_path(file: WebFile, root: Path, title: str) -> Path:
    """The path of a file in a data root, once its checksum is verified.

    Args:
        file: the file.
        root: the data root.
        title: of the data set.

    Raises:
        InputError: the file is missing or another one.
    """
    path, digest = root / file.path, hashlib.md5(usedforsecurity=False)
    try:
        for piece in pieces(path):
            digest.update(piece)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); put the file of {title} there") from error
    if digest.hexdigest() != file.md5:
        raise InputError(
            f"{path}: not the file of {title}, or damaged (its MD5 is not {file.md5}); replace it by {file.address}"
        )
    return path
