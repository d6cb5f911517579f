"""Storage that all nodes of a cluster can access: a folder, or a bucket."""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow
import pyarrow.fs

from flowvae.errors import InputError
from flowvae.training.checkpoint import CHECKPOINT_NAME, Checkpoint
from pipeline.running.progress import warn

PIECE = 32 << 20  # bytes sent or fetched at a time; smaller pieces would wait for the network more often


class StorageError(InputError):
    """The storage failed, because of credentials, the network or a lack of space. A retry may succeed."""


@dataclass(frozen=True)
class Storage:
    """A folder in storage that all nodes can access.

    Every method raises StorageError if the storage is unavailable or refuses the operation.

    Args:
        filesystem: of the storage.
        folder: inside it.
    """

    filesystem: pyarrow.fs.FileSystem
    folder: str

    @classmethod
    def of(cls, uri: str, name: str) -> "Storage":
        """A folder in the storage at a URI.

        Args:
            uri: the value of FLOWVAE_STORAGE: an absolute folder, or s3://BUCKET/FOLDER, followed by
                ?endpoint_override=HOST:PORT&scheme=http for your own S3 server. Credentials come from the environment
                (AWS_ACCESS_KEY_ID, ...), never from the URI.
            name: of the folder, relative to the URI; empty for the whole storage.

        Raises:
            InputError: the URI is invalid, or it contains credentials.
        """
        parts = urlsplit(uri)
        if parts.password or parse_qs(parts.query).keys() & {"access_key", "secret_key", "session_token"}:
            raise InputError(
                "FLOWVAE_STORAGE: contains credentials; put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        try:
            filesystem, root = pyarrow.fs.FileSystem.from_uri(uri)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise InputError(
                f"FLOWVAE_STORAGE: expected an absolute folder or a URI like s3://bucket/folder, got {uri!r} "
                f"({' '.join(str(error).split())})"
            ) from error
        return cls(filesystem, f"{root.rstrip('/')}/{name}".rstrip("/"))

    def new_start(self) -> str:
        """A name for Ray's files of this start of the run, which no earlier start had.

        A driver that is killed can leave Ray's own state files incomplete, and Ray then refuses the folder. So no start
        reads the state files of another one. Checkpoints are found by their names, which contain their checksums.
        """
        earlier = self._list(recursive=False)
        return f"start-{len(earlier):03d}"

    def has(self, name: str, num_bytes: int) -> bool:
        """Whether the folder holds a file of this name and size."""
        with self._storage_errors():
            info = self.filesystem.get_file_info(f"{self.folder}/{name}")
        return info.is_file and info.size == num_bytes

    def read(self, name: str) -> bytes | None:
        """The content of a file of the folder; None if there is no such file."""
        try:
            return self._read(f"{self.folder}/{name}")
        except FileNotFoundError:
            return None

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file of the folder in pieces; it may be larger than memory.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._storage_errors(), self.filesystem.open_input_stream(f"{self.folder}/{name}") as file:
            while piece := file.read(PIECE):
                yield piece

    def write(self, name: str, content: bytes) -> None:
        """Write a file, which is either complete or absent."""
        self.write_pieces(name, (content,))

    def write_pieces(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a file that may be larger than memory, which is either complete or absent.

        Args:
            name: relative to the folder.
            pieces: the content in order, ideally PIECE bytes each.
        """
        path = f"{self.folder}/{name}"
        local = isinstance(self.filesystem, pyarrow.fs.LocalFileSystem)
        partial = f"{path}.{secrets.token_hex(4)}.partial" if local else path  # another process may write the same file
        with self._storage_errors():
            self.filesystem.create_dir(path.rpartition("/")[0])
            with self._complete_or_absent(partial) as file:
                for piece in pieces:
                    file.write(piece)
                    file.flush()  # otherwise all pieces are kept in memory until they are sent
            if partial != path:
                self.filesystem.move(partial, path)

    def checkpoints(self) -> list[str]:
        """Paths of all checkpoint files, from the newest to the oldest."""
        files = [info for info in self._list(recursive=True) if CHECKPOINT_NAME.fullmatch(info.base_name)]
        return [info.path for info in sorted(files, key=lambda info: info.base_name, reverse=True)]

    def checkpoint(self, path: str) -> Checkpoint | None:
        """Read a checkpoint file; None if it is damaged."""
        return Checkpoint.from_file(Path(path).name, self._read(path))

    def newest(self) -> tuple[str, Checkpoint] | tuple[None, None]:
        """The path and the content of the newest undamaged checkpoint; None twice if there is none."""
        for path in self.checkpoints():
            try:
                if checkpoint := self.checkpoint(path):
                    return path, checkpoint
            except FileNotFoundError:  # the same run in another clone has replaced it
                continue
            warn(f"{path}: damaged, its checksum is not the one in its name; resuming from an earlier one")
        return None, None

    def last_writes(self) -> dict[str, datetime]:
        """When each file in the folder was written, by its path in the folder."""
        files = (info for info in self._list(recursive=True) if info.is_file)
        return {info.path.removeprefix(f"{self.folder}/"): info.mtime for info in files}

    def delete(self, path: str) -> None:
        """Delete a file, unless the same run in another clone has deleted it.

        Args:
            path: in the file system, such as one of `checkpoints`.
        """
        with suppress(FileNotFoundError), self._storage_errors():
            self.filesystem.delete_file(path)

    def remove(self) -> None:
        """Delete the folder, unless the same run in another clone has deleted it."""
        with suppress(FileNotFoundError), self._storage_errors():
            self.filesystem.delete_dir(self.folder)

    def _read(self, path: str) -> bytes:
        with self._storage_errors(), self.filesystem.open_input_file(path) as file:
            return file.read()

    @contextmanager
    def _complete_or_absent(self, path: str) -> Iterator[pyarrow.NativeFile]:
        """Open a file for writing. Closing creates the object even from a part of it; that object is then deleted."""
        file = self.filesystem.open_output_stream(path)
        try:
            yield file
        except BaseException:
            with suppress(OSError):  # the first error is the one to report; and if closing fails, there is no object
                file.close()
                self.filesystem.delete_file(path)
            raise
        file.close()

    def _list(self, *, recursive: bool) -> list[pyarrow.fs.FileInfo]:
        with self._storage_errors():
            return self.filesystem.get_file_info(
                pyarrow.fs.FileSelector(self.folder, recursive=recursive, allow_not_found=True)
            )

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Turn OSErrors into StorageErrors, except for FileNotFoundError."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = " ".join(str(error).split())
            raise StorageError(
                f"FLOWVAE_STORAGE: {self.folder}: {reason}; check the credentials (AWS_ACCESS_KEY_ID, ...), the "
                "network and the free space, and run again"
            ) from error
