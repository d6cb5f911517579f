"""Prepared arrays on every node: put into storage once, fetched by each node once, checked, kept on its disk."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from filelock import FileLock

from flowvae.data.arrays import METADATA, Metadata, read_metadata
from flowvae.errors import InputError
from flowvae.files import pieces, sha256, write_atomically
from pipeline.distributed.storage import PIECE, Storage
from pipeline.placement import Placement


def digest_of(metadata: Metadata) -> str:
    """The name of a set of arrays: a hash of the metadata, which hold the checksums of all files."""
    return hashlib.sha256(metadata.model_dump_json().encode()).hexdigest()[:16]


def share_arrays(folder: Path, uri: str) -> str:
    """Put the arrays where all nodes of a cluster find them; their name.

    Raises:
        InputError: the arrays or the storage cannot be read.
    """
    metadata = read_metadata(folder)
    storage = Storage.of(uri, f"data/{digest_of(metadata)}")
    for path in (*(folder / f"{name}.npy" for name in metadata.sha256), folder / METADATA):
        share_file(path, storage)
    return digest_of(metadata)


def share_file(path: Path, storage: Storage) -> None:
    """Put a file there, unless it is there."""

    def content() -> Iterator[bytes]:
        with readable(path):
            yield from pieces(path, PIECE)

    with readable(path):
        num_bytes = path.stat().st_size
    if not storage.has(path.name, num_bytes):
        storage.write_pieces(path.name, content())


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """An error of reading this file is not one of the storage."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run the stage 'prepare' again") from error


def local_arrays(folder: Path, metadata: Metadata, placement: Placement) -> Path:
    """A folder of this node with the arrays: the driver's own where it is seen here, else a copy from storage.

    Raises:
        InputError: they are not in storage, or what came from there is damaged.
    """
    if not placement.address or seen_here(folder, metadata):
        return folder
    home = Path(tempfile.gettempdir()) / f"flowvae-{os.getuid()}"
    target = home / digest_of(metadata)
    home.mkdir(mode=0o700, exist_ok=True)
    with FileLock(home / f"{target.name}.lock"):  # of several workers on a node, one fetches
        if not seen_here(target, metadata):
            fetch_arrays(target, placement.storage, target.name)
    return target


def seen_here(folder: Path, metadata: Metadata) -> bool:
    """Whether a folder of this node holds just these arrays."""
    try:
        return read_metadata(folder) == metadata
    except InputError:
        return False


def fetch_arrays(target: Path, uri: str, name: str) -> None:
    """Copy the arrays of that name from storage into a folder, all of them or none.

    Raises:
        InputError: they are not there, or damaged.
    """
    storage = Storage.of(uri, f"data/{name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        fetch_file(partial / METADATA, storage)
        for array, expected in read_metadata(partial).sha256.items():
            path = partial / f"{array}.npy"
            fetch_file(path, storage)
            if sha256(path) != expected:
                raise InputError(f"{storage.folder}/{path.name}: damaged; delete it and run the stage again")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def fetch_file(path: Path, storage: Storage) -> None:
    """Copy the file of that name from there."""
    content = storage.pieces(path.name)
    try:
        first = next(content, b"")
    except FileNotFoundError as error:
        raise InputError(f"{storage.folder}/{path.name}: not in storage; run the stage again from the start") from error
    try:
        write_atomically(path, lambda file: file.writelines(chain((first,), content)))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room on this node") from error
