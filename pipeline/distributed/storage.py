"""Storage that all nodes of a cluster see: a folder, or a bucket."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow
import pyarrow.fs

from flowvae.checkpoint import KEPT, NAME, Checkpoint, Clock, Interval
from flowvae.errors import InputError
from pipeline.fitting import warn

PIECE = 32 << 20  # bytes sent or fetched at a time: smaller ones wait for the network more often


class StorageError(InputError):
    """The storage did not do what was asked of it: credentials, network, room. The next try may find it mended."""


@dataclass(frozen=True)
class Storage:
    """A folder in storage that all nodes see.

    Whatever it is asked, it raises StorageError if it cannot be reached, or refuses.

    Args:
        filesystem: of the storage.
        folder: inside it.
    """

    filesystem: pyarrow.fs.FileSystem
    folder: str

    @classmethod
    def of(cls, uri: str, name: str) -> "Storage":
        """A folder of that name in the storage that FLOWVAE_STORAGE names.

        Args:
            uri: an absolute folder, or s3://BUCKET/FOLDER, with ?endpoint_override=HOST:PORT&scheme=http for a
                server of one's own. Credentials come from the environment (AWS_ACCESS_KEY_ID, ...), never from here.
            name: inside it.

        Raises:
            InputError: it is no folder and no URI of a kind that is known, or it holds credentials.
        """
        parts = urlsplit(uri)
        if parts.password or parse_qs(parts.query).keys() & {"access_key", "secret_key", "session_token"}:
            raise InputError(
                "FLOWVAE_STORAGE: holds credentials; put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        try:
            filesystem, root = pyarrow.fs.FileSystem.from_uri(uri)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise InputError(
                f"FLOWVAE_STORAGE: expected an absolute folder or a URI like s3://bucket/folder, got {uri!r} "
                f"({' '.join(str(error).split())})"
            ) from error
        return cls(filesystem, f"{root.rstrip('/')}/{name}")

    def new_start(self) -> str:
        """A name that no earlier start of this run had.

        A driver that is killed can leave Ray's own notes half-written, and Ray then refuses the folder. So no
        start reads the notes of another: checkpoints are found by their names, which carry their checksums.
        """
        earlier = self._list(recursive=False)
        return f"start-{len(earlier):03d}"

    def has(self, name: str, num_bytes: int) -> bool:
        """Whether the folder holds a file of that name and size."""
        with self._answering():
            found = self.filesystem.get_file_info(f"{self.folder}/{name}")
        return found.is_file and found.size == num_bytes

    def read(self, name: str) -> bytes | None:
        """Contents of a file of the folder; None if it is not there."""
        try:
            return self._read(f"{self.folder}/{name}")
        except FileNotFoundError:
            return None

    def pieces(self, name: str) -> Iterator[bytes]:
        """Contents of a file of the folder that may be larger than memory.

        Raises:
            FileNotFoundError: it is not there.
        """
        with self._answering(), self.filesystem.open_input_stream(f"{self.folder}/{name}") as file:
            while piece := file.read(PIECE):
                yield piece

    def write(self, name: str, content: bytes) -> None:
        """A whole file or none: under another name until it is complete, where that is not so by itself."""
        self.write_pieces(name, (content,))

    def write_pieces(self, name: str, pieces: Iterable[bytes]) -> None:
        """As `write`, of contents that may be larger than memory.

        Args:
            name: inside the folder.
            pieces: the contents in order, best of PIECE bytes each.
        """
        path = f"{self.folder}/{name}"
        local = isinstance(self.filesystem, pyarrow.fs.LocalFileSystem)
        partial = f"{path}.{secrets.token_hex(4)}.partial" if local else path  # others may be writing the same
        with self._answering():
            self.filesystem.create_dir(path.rpartition("/")[0])
            with self._whole(partial) as file:
                for piece in pieces:
                    file.write(piece)
                    file.flush()  # else all that is sent waits in memory for its turn
            if partial != path:
                self.filesystem.move(partial, path)

    def checkpoints(self) -> list[str]:
        """Paths of all checkpoint files, from the newest to the oldest."""
        files = [info for info in self._list(recursive=True) if NAME.fullmatch(info.base_name)]
        return [info.path for info in sorted(files, key=lambda info: info.base_name, reverse=True)]

    def checkpoint(self, path: str) -> Checkpoint | None:
        """What is in a checkpoint file; None if it is damaged."""
        return Checkpoint.from_file(Path(path).name, self._read(path))

    def newest(self) -> tuple[str, Checkpoint] | tuple[None, None]:
        """The newest sound checkpoint, and its path."""
        for path in self.checkpoints():
            if checkpoint := self.checkpoint(path):
                return path, checkpoint
            warn(f"{path}: damaged, its checksum is not the one in its name; going back further")
        return None, None

    def delete(self, path: str) -> None:
        """One of `checkpoints`."""
        with self._answering():
            self.filesystem.delete_file(path)

    def remove(self) -> None:
        with self._answering():
            self.filesystem.delete_dir(self.folder)

    def _read(self, path: str) -> bytes:
        with self._answering(), self.filesystem.open_input_file(path) as file:
            return file.read()

    @contextmanager
    def _whole(self, path: str) -> Iterator[pyarrow.NativeFile]:
        """A file to write. Closing makes an object of whatever was sent; one that is not whole is deleted."""
        file = self.filesystem.open_output_stream(path)
        try:
            yield file
        except BaseException:
            with suppress(OSError):  # what went wrong before says more; and what could not be closed is no object
                file.close()
                self.filesystem.delete_file(path)
            raise
        file.close()

    def _list(self, *, recursive: bool) -> list[pyarrow.fs.FileInfo]:
        with self._answering():
            return self.filesystem.get_file_info(
                pyarrow.fs.FileSelector(self.folder, recursive=recursive, allow_not_found=True)
            )

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = " ".join(str(error).split())
            raise StorageError(
                f"FLOWVAE_STORAGE: {self.folder}: {reason}; look at the credentials (AWS_ACCESS_KEY_ID, ...), the "
                "network and the room there, and run again"
            ) from error


class StoredCheckpoints:
    """Checkpoints of a run by one process, in storage that all nodes see.

    Args:
        storage: of the run.
        interval: between two.
    """

    def __init__(self, storage: Storage, interval: Interval) -> None:
        self.storage, self.clock = storage, Clock(interval)

    def latest(self) -> Checkpoint | None:
        _, checkpoint = self.storage.newest()
        if checkpoint:
            self.clock.reset(checkpoint.step)
        return checkpoint

    def offer(self, step: int, capture: Callable[[], Checkpoint]) -> None:
        if self.clock.due(step):
            checkpoint = capture()
            content = checkpoint.to_bytes()
            self.storage.write(checkpoint.file_name(content), content)
            for old in self.storage.checkpoints()[KEPT:]:
                self.storage.delete(old)
            self.clock.reset(step)

    def remove(self) -> None:
        """Forget the run, once what it made is safe."""
        if self.storage.checkpoints():
            self.storage.remove()
