"""Prepared arrays on every node: uploaded to storage once, then fetched, verified and kept on disk by each node."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from filelock import FileLock

from flowvae.data.arrays import DESCRIPTIONS, Metadata, read_metadata
from flowvae.errors import InputError
from flowvae.files import pieces, sha256, write_atomically
from pipeline.distributed.storage import PIECE, Storage
from pipeline.running.placement import Placement


def digest_of(metadata: Metadata) -> str:
    """The name of a set of arrays: a hash of the metadata, which contain the checksums of all arrays."""
    return hashlib.sha256(metadata.model_dump_json().encode()).hexdigest()[:16]


def share_arrays(folder: Path, uri: str) -> str:
    """Upload the arrays in a folder to storage, from where all nodes of a cluster fetch them.

    Args:
        folder: of the arrays.
        uri: of the storage.

    Returns:
        The name of the arrays in storage.

    Raises:
        InputError: the arrays or the storage cannot be read.
    """
    metadata = read_metadata(folder)
    storage = Storage.of(uri, f"data/{digest_of(metadata)}")
    for name in metadata.arrays:
        share_file(folder / f"{name}.npy", storage)
    for name in DESCRIPTIONS:
        share_file(folder / name, storage, again=True)  # by their time, `pipeline.submit.prune` sees what is in use
    return digest_of(metadata)


def share_file(path: Path, storage: Storage, *, again: bool = False) -> None:
    """Upload a file, also again if it is there already, or else only if it is not."""

    def content() -> Iterator[bytes]:
        with reading(path):
            yield from pieces(path, PIECE)

    with reading(path):
        num_bytes = path.stat().st_size
    if again or not storage.has(path.name, num_bytes):
        storage.write_pieces(path.name, content())


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Report an OSError as an error of this file, so that it is not attributed to the storage."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run the stage 'prepare' again") from error


def local_arrays(folder: Path, metadata: Metadata, placement: Placement) -> Path:
    """A folder with the arrays on this node: the driver's folder if this node can access it, else a copy from storage.

    Args:
        folder: the driver's.
        metadata: of the arrays.
        placement: has the storage.

    Raises:
        InputError: the arrays are missing or damaged in storage.
    """
    if not placement.address or holds_arrays(folder, metadata):
        return folder
    cache = Path(tempfile.gettempdir()) / f"flowvae-{os.getuid()}"
    target = cache / digest_of(metadata)
    cache.mkdir(mode=0o700, exist_ok=True)
    with FileLock(cache / f"{target.name}.lock"):  # only one of the workers on a node fetches
        if not holds_arrays(target, metadata):
            fetch_arrays(target, placement.storage, target.name)
    return target


def holds_arrays(folder: Path, metadata: Metadata) -> bool:
    """Whether a folder on this node holds exactly these arrays, wherever they come from."""
    try:
        return read_metadata(folder).arrays == metadata.arrays
    except InputError:
        return False


def fetch_arrays(target: Path, uri: str, name: str) -> None:
    """Copy arrays from storage into a folder, either all of them or none.

    Args:
        target: the folder.
        uri: of the storage.
        name: of the arrays in storage.

    Raises:
        InputError: the arrays are missing or damaged in storage.
    """
    storage = Storage.of(uri, f"data/{name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        for description in DESCRIPTIONS:
            fetch_file(partial / description, storage)
        for array, info in read_metadata(partial).arrays.items():
            path = partial / f"{array}.npy"
            fetch_file(path, storage)
            if sha256(path) != info.sha256:
                raise InputError(f"{storage.folder}/{path.name}: damaged; delete it and run the stage again")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def fetch_file(path: Path, storage: Storage) -> None:
    """Copy the file of this name from storage."""
    content = storage.pieces(path.name)
    try:
        first = next(content, b"")
    except FileNotFoundError as error:
        raise InputError(f"{storage.folder}/{path.name}: not in storage; run the stage again from the start") from error
    try:
        write_atomically(path, lambda file: file.writelines(chain((first,), content)))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free space on this node") from error
