"""Image files by the hundred thousand become arrays: decoded by many processes, in bounded memory, resumable.

Every process writes its chunks straight into the file of the array, so that this one holds no pixels. Which chunks are
in there is a line each of a journal: a run that was killed leaves both, and the next one decodes the rest.
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
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import PIL

from flowvae.data import decoding
from flowvae.data.rows import ImageFiles, Rows, Source
from flowvae.errors import InputError

CHUNK, CHUNK_BYTES = 256, 8 << 20  # images that a process decodes at a time, fewer where they are large
JOURNAL = "journal"
Corrupt = dict[int, str]  # why an image could not be read, by its position


def fingerprint(images: Mapping[str, ImageFiles]) -> str:
    """A hash of names, sizes and times of change: it changes when a file is added, taken away, renamed or written.

    Contents are not read, which would take as long as preparing them.

    Raises:
        InputError: a file is not there.
    """
    digest = hashlib.sha256()
    for split, files in images.items():
        for name in files.names:
            path = files.folder / name
            try:
                stat = path.stat()
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror}); put it there") from error
            line = f"{split}\0{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def work_id(images: Mapping[str, ImageFiles]) -> str:
    """A hash of all that the decoded bytes depend on: what was begun under another one is of no use."""
    how = json.dumps({split: dict(files.how) for split, files in images.items()}, sort_keys=True)
    code = Path(decoding.__file__).read_bytes()
    words = (fingerprint(images), how, str((CHUNK, CHUNK_BYTES)), PIL.__version__)
    return hashlib.sha256("\n".join(words).encode() + code).hexdigest()[:16]


def decode_files(
    images: Mapping[str, ImageFiles],
    work: Path,
    num_processes: int,
    on_progress: Callable[[int, int], None],
) -> tuple[dict[str, Rows], dict[str, Corrupt]]:
    """Decode what `work` does not hold yet, and what could not be read when it was begun.

    Args:
        images: by split.
        work: a folder of just this work, for the decoded images and the journal; made if need be. It is not removed.
        num_processes: how many decode at a time.
        on_progress: called with (images that are done, images in all) now and then.

    Returns:
        the images that could be read, on disk, and those that could not, by split.

    Raises:
        OSError: the disk is full, or the like; what was done stays.
    """
    work.mkdir(parents=True, exist_ok=True)
    if not all(is_whole(work / f"{split}.raw", files) for split, files in images.items()):
        (work / JOURNAL).unlink(missing_ok=True)  # it tells of images that are not there
    arrays = {split: raw_array(work / f"{split}.raw", files) for split, files in images.items()}
    with Journal(work / JOURNAL) as journal:
        # What could not be read is tried again: the fault may have been the disk's, or that of its rights.
        todo = [key for key in all_chunks(images) if journal.done.get(key) != []]
        total = sum(map(len, images.values()))
        done = total - sum(size_of_chunk(images[split], start) for split, start in todo)
        on_progress(done, total)
        for (split, start), corrupt in decoded(images, work, todo, num_processes):
            journal.add(split, start, corrupt)
            done += size_of_chunk(images[split], start)
            on_progress(done, total)
        corrupt = journal.corrupt(images)
    kept = {split: np.setdiff1d(np.arange(len(images[split])), list(corrupt[split])) for split in images}
    return {split: Rows.of(arrays[split], kept[split]) for split in images}, corrupt


def decode_source(
    source: Source, work: Path, num_processes: int, on_progress: Callable[[int, int], None]
) -> tuple[Source, dict[str, Corrupt]]:
    """The source with its files decoded and without those that cannot be read, and these; the arguments as above."""
    files = image_files(source)
    rows, corrupt = decode_files(files, work, num_processes, on_progress) if files else ({}, {})
    labels = np.delete(source.test_labels, list(corrupt.get("test", {})))
    return replace(source, images={**source.images, **rows}, test_labels=labels), corrupt


def image_files(source: Source) -> dict[str, ImageFiles]:
    """What of a source is files still."""
    return {split: images for split, images in source.images.items() if isinstance(images, ImageFiles)}


def all_chunks(images: Mapping[str, ImageFiles]) -> Iterator[tuple[str, int]]:
    """(split, first image) of each chunk."""
    return ((split, start) for split, files in images.items() for start in range(0, len(files), chunk_of(files)))


def chunk_of(files: ImageFiles) -> int:
    """Images of a chunk; a process holds all of them."""
    return min(CHUNK, max(1, CHUNK_BYTES // math.prod(files.image_shape)))


def size_of_chunk(files: ImageFiles, start: int) -> int:
    """Images of the chunk that begins there; the last one is shorter."""
    return min(chunk_of(files), len(files) - start)


def is_whole(path: Path, files: ImageFiles) -> bool:
    """Whether the file of an array is there, and as long as it must be."""
    return path.exists() and path.stat().st_size == len(files) * math.prod(files.image_shape)


def raw_array(path: Path, files: ImageFiles) -> np.ndarray:
    """The file of an array without a header, as a memory map; blank where it is new."""
    shape = (len(files), *files.image_shape)
    with path.open("ab") as file:
        file.truncate(math.prod(shape))  # each time: a kill may have come between the two
    return np.memmap(path, np.uint8, "r", shape=shape) if len(files) else np.empty(shape, np.uint8)


class Journal:
    """Which chunks are done, and what was corrupt in them: a line of JSON each.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.done = path, {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                split, start, corrupt = json.loads(line)
            except ValueError:  # the line at which the run was killed
                continue
            self.done[split, start] = corrupt

    def __enter__(self) -> "Journal":
        self.file = self.path.open("a")
        self.file.write("\n")  # ends a line that a kill left open
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, split: str, start: int, corrupt: list[tuple[int, str]]) -> None:
        self.file.write(json.dumps([split, start, corrupt]) + "\n")
        self.file.flush()
        self.done[split, start] = corrupt

    def corrupt(self, splits: Mapping[str, object]) -> dict[str, Corrupt]:
        """Of each split, in order."""
        found: dict[str, Corrupt] = {split: {} for split in splits}
        for split, start in sorted(self.done):
            found[split] |= {start + i: reason for i, reason in self.done[split, start]}
        return found


def decoded(
    images: Mapping[str, ImageFiles], work: Path, todo: list[tuple[str, int]], num_processes: int
) -> Iterator[tuple[tuple[str, int], list[tuple[int, str]]]]:
    """Each chunk, once it is on disk, with what was corrupt in it."""
    idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()

    def decode_chunk(key: tuple[str, int]) -> list[tuple[int, str]]:
        process = idle.get()
        try:
            return ask(process, request(images[key[0]], work / f"{key[0]}.raw", key[1]))
        finally:
            idle.put(process)

    with decoders(min(num_processes, len(todo))) as processes, ThreadPoolExecutor(max(1, len(processes))) as pool:
        for process in processes:
            idle.put(process)
        waiting = {pool.submit(decode_chunk, key): key for key in todo}
        try:
            for future in as_completed(waiting):
                yield waiting.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def request(files: ImageFiles, path: Path, start: int) -> dict[str, Any]:
    """What a process is to do: the keyword arguments of `decoding.decode_into`."""
    return {
        "path": str(path),
        "offset": start * math.prod(files.image_shape),
        "folder": str(files.folder),
        "names": list(files.names[start : start + chunk_of(files)]),
        "how": dict(files.how),
    }


def ask(process: subprocess.Popen[str], what: dict[str, Any]) -> list[tuple[int, str]]:
    """The answer of a process.

    Raises:
        OSError: it could not write.
        InputError: it died.
    """
    try:
        process.stdin.write(json.dumps(what) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        raise InputError(
            f"{what['folder']}: a process that decodes images died, perhaps for lack of memory; run again to go on"
        )
    answer = json.loads(line)
    if "errno" in answer:
        raise OSError(answer["errno"], answer["strerror"], answer["filename"])
    return [(i, reason) for i, reason in answer["corrupt"]]


@contextmanager
def decoders(count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that run `decoding.main`."""
    package = Path(decoding.__file__).parents[2]
    found = os.pathsep.join((str(package), *filter(None, sys.path)))
    command = [sys.executable, "-W", "ignore", "-m", decoding.__name__]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    processes = [subprocess.Popen(command, **pipes, env=os.environ | {"PYTHONPATH": found}) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            with suppress(BrokenPipeError):
                process.stdin.close()
        for process in processes:
            process.wait()
            process.stdout.close()
