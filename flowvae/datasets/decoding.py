"""Image files become arrays: decoded by many processes, in bounded memory, resumable.

Every process writes its chunks directly into the file of the array, so this process holds no pixels. A journal has one
line for each chunk that is written. If a run is killed, both files remain, and the next run decodes the rest.
"""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import IO

import numpy as np
import PIL

from flowvae.datasets import decoder
from flowvae.datasets.decoder import DecodeRequest
from flowvae.datasets.raw import RawArrays, RawDataset, RawFiles
from flowvae.errors import InputError

CHUNK, CHUNK_BYTES = 256, 8 << 20  # images that a process decodes at a time; fewer if they are large
JOURNAL = "journal"
Corrupt = dict[int, str]  # why an image could not be read, by its position
Chunk = tuple[str, int]  # its split and the position of its first image


def fingerprint(images: Mapping[str, RawFiles]) -> str:
    """A hash of names, sizes and modification times: it changes if a file is added, removed, renamed or written.

    Contents are not read, because that would take as long as preparing them. Files that do not exist count as empty;
    decoding reports them.
    """
    digest = hashlib.sha256()
    for split, files in images.items():
        for name, (size, time) in zip(files.names, sizes_and_times(files)):
            line = f"{split}\0{name}\0{size}\0{time}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def sizes_and_times(files: RawFiles) -> Iterator[tuple[int, int]]:
    """Size and modification time of each file; files in an archive have the time of the archive."""
    if files.spans is None:
        return (size_and_time(files.folder / name) for name in files.names)
    _, time = size_and_time(files.folder)
    return ((int(size), time) for _, size in files.spans)


def size_and_time(path: Path) -> tuple[int, int]:
    """Bytes, and nanoseconds; zeros for a file that does not exist."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def decoding_id(images: Mapping[str, RawFiles]) -> str:
    """A hash of everything that the decoded bytes depend on; chunks decoded under another hash are not reused."""
    options = json.dumps({split: files.options for split, files in images.items()}, sort_keys=True)
    code = Path(decoder.__file__).read_bytes()
    inputs = (fingerprint(images), options, str((CHUNK, CHUNK_BYTES)), PIL.__version__)
    return hashlib.sha256("\n".join(inputs).encode() + code).hexdigest()[:16]


def decode_files(
    images: Mapping[str, RawFiles],
    folder: Path,
    num_processes: int,
    on_progress: Callable[[int, int], None],
) -> tuple[dict[str, RawArrays], dict[str, Corrupt]]:
    """Decode the chunks that `folder` does not hold yet, and those with images that were corrupt.

    Args:
        images: by split.
        folder: for the decoded images and the journal of just these images; created if necessary, not removed.
        num_processes: decoding at a time.
        on_progress: called with (number of images done, number of all images) now and then.

    Returns:
        The readable images, on disk, and the corrupt ones, both by split.

    Raises:
        OSError: the disk is full, or similar; finished chunks remain.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not all(is_complete(folder / f"{split}.raw", files) for split, files in images.items()):
        (folder / JOURNAL).unlink(missing_ok=True)  # it lists chunks that do not exist
    arrays = {split: raw_array(folder / f"{split}.raw", files) for split, files in images.items()}
    with Journal(folder / JOURNAL) as journal:
        # Corrupt images are decoded again: the cause may have been the disk, or missing permissions.
        todo = [chunk for chunk in all_chunks(images) if journal.done.get(chunk) != []]
        total = sum(map(len, images.values()))
        done = total - sum(chunk_length(images[split], start) for split, start in todo)
        on_progress(done, total)
        for (split, start), corrupt in decoded(images, folder, todo, num_processes):
            journal.add(split, start, corrupt)
            done += chunk_length(images[split], start)
            on_progress(done, total)
        all_corrupt = journal.corrupt(images)
    kept = {split: np.setdiff1d(np.arange(len(images[split])), list(all_corrupt[split])) for split in images}
    return {split: RawArrays.of(arrays[split], kept[split]) for split in images}, all_corrupt


@dataclass(frozen=True)
class Decoded:
    """A data set without files.

    Args:
        dataset: its images as arrays, without the corrupt ones.
        corrupt: by split.
    """

    dataset: RawDataset
    corrupt: Mapping[str, Corrupt]


def decode_dataset(
    dataset: RawDataset, folder: Path, num_processes: int, on_progress: Callable[[int, int], None]
) -> Decoded:
    """Decode all files of a data set; the arguments are those of `decode_files`."""
    if not dataset.files:
        return Decoded(dataset, {})
    arrays, corrupt = decode_files(dataset.files, folder, num_processes, on_progress)

    def readable(labels: np.ndarray, split: str) -> np.ndarray:
        return np.delete(labels, list(corrupt.get(split, {})))

    readable_set = replace(
        dataset,
        images={**dataset.images, **arrays},
        test_labels=readable(dataset.test_labels, "test"),
        train_labels=None if dataset.train_labels is None else readable(dataset.train_labels, "train"),
    )
    return Decoded(readable_set, corrupt)


def all_chunks(images: Mapping[str, RawFiles]) -> Iterator[Chunk]:
    """Every chunk of every split."""
    return ((split, start) for split, files in images.items() for start in range(0, len(files), chunk_size(files)))


def chunk_size(files: RawFiles) -> int:
    """Number of images in a chunk; a process holds all of them in memory."""
    return min(CHUNK, max(1, CHUNK_BYTES // math.prod(files.image_shape)))


def chunk_length(files: RawFiles, start: int) -> int:
    """Number of images in the chunk that starts at a position; the last chunk is shorter."""
    return min(chunk_size(files), len(files) - start)


def is_complete(path: Path, files: RawFiles) -> bool:
    """Whether the file of an array exists and has its full size."""
    return path.exists() and path.stat().st_size == len(files) * math.prod(files.image_shape)


def raw_array(path: Path, files: RawFiles) -> np.ndarray:
    """The file of an array without a header, as a memory map; filled with zeros if it is new."""
    shape = (len(files), *files.image_shape)
    with path.open("ab") as file:
        file.truncate(math.prod(shape))  # each time: the process may have been killed between the two
    return np.memmap(path, np.uint8, "r", shape=shape) if len(files) else np.empty(shape, np.uint8)


class Journal:
    """The finished chunks and their corrupt images, one line of JSON each.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[Chunk, list[tuple[int, str]]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                split, start, corrupt = json.loads(line)
            except ValueError:  # the line that was being written when the run was killed
                continue
            self.done[split, start] = corrupt

    def __enter__(self) -> "Journal":
        self.file = self.path.open("a")
        self.file.write("\n")  # ends a line that was cut off
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def add(self, split: str, start: int, corrupt: list[tuple[int, str]]) -> None:
        """Record a finished chunk."""
        self.file.write(json.dumps([split, start, corrupt]) + "\n")
        self.file.flush()
        self.done[split, start] = corrupt

    def corrupt(self, images: Mapping[str, RawFiles]) -> dict[str, Corrupt]:
        """The corrupt images of each split, in order."""
        by_split: dict[str, Corrupt] = {split: {} for split in images}
        for split, start in sorted(self.done):
            by_split[split] |= {start + i: reason for i, reason in self.done[split, start]}
        return by_split


def decoded(
    images: Mapping[str, RawFiles], folder: Path, todo: list[Chunk], num_processes: int
) -> Iterator[tuple[Chunk, list[tuple[int, str]]]]:
    """Each chunk once it is on disk, with its corrupt images."""
    idle: SimpleQueue[DecoderProcess] = SimpleQueue()

    def decode_chunk(chunk: Chunk) -> list[tuple[int, str]]:
        process = idle.get()
        try:
            return process.decode(request(images[chunk[0]], folder / f"{chunk[0]}.raw", chunk[1]))
        finally:
            idle.put(process)

    with decoders(min(num_processes, len(todo))) as processes, ThreadPoolExecutor(max(1, len(processes))) as pool:
        for process in processes:
            idle.put(process)
        pending = {pool.submit(decode_chunk, chunk): chunk for chunk in todo}
        try:
            for future in as_completed(pending):
                yield pending.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def request(files: RawFiles, path: Path, start: int) -> DecodeRequest:
    """The request for one chunk."""
    chunk = slice(start, start + chunk_size(files))
    return {
        "path": str(path),
        "offset": start * math.prod(files.image_shape),
        "folder": str(files.folder),
        "names": list(files.names[chunk]),
        "spans": None if files.spans is None else files.spans[chunk].tolist(),
        "options": files.options,
    }


class DecoderProcess:
    """A process that runs `decoder.main`."""

    def __init__(self) -> None:
        package = Path(decoder.__file__).parents[2]
        path = os.pathsep.join((str(package), *filter(None, sys.path)))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", decoder.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": path},
        )

    @property
    def pipes(self) -> tuple[IO[str], IO[str]]:
        """Its standard input and output."""
        assert self.process.stdin and self.process.stdout
        return self.process.stdin, self.process.stdout

    def decode(self, request: DecodeRequest) -> list[tuple[int, str]]:
        """(position, reason) of each corrupt image of a chunk.

        Raises:
            OSError: the process could not write.
            InputError: the process died.
        """
        stdin, stdout = self.pipes
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise InputError(
                f"{request['folder']}: a decoding process died, perhaps because memory ran out; run again to resume"
            )
        answer = json.loads(line)
        if "errno" in answer:
            raise OSError(answer["errno"], answer["strerror"], answer["filename"])
        return [(i, reason) for i, reason in answer["corrupt"]]

    def close(self) -> None:
        """Let the process end."""
        with suppress(BrokenPipeError):
            self.pipes[0].close()

    def wait(self) -> None:
        """Wait until the process has ended."""
        self.process.wait()
        self.pipes[1].close()


@contextmanager
def decoders(count: int) -> Iterator[list[DecoderProcess]]:
    """Decoding processes, which end with this context."""
    processes = [DecoderProcess() for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.close()
        for process in processes:
            process.wait()
