"""Images in shards, WebDataset or Parquet, in a folder or in object storage: which there are, and how they are split.

Reading them is left to a cluster. Whatever reads them writes a folder that `read_shards` opens.
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np
import PIL

from flowvae.data.arrays import SPLITS
from flowvae.datasets import decoder, shard_rows
from flowvae.datasets.config import DataConfig
from flowvae.datasets.drawing import ALL, draw_missing
from flowvae.datasets.entry import DatasetEntry
from flowvae.datasets.folder_split import split_of
from flowvae.datasets.raw import RawArrays, RawDataset, as_labels
from flowvae.errors import InputError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

FORMATS = {".tar": "webdataset", ".parquet": "parquet"}
WORDS = re.compile(r"[A-Za-z]+")
# The files of a folder of gathered images. The last one is written last.
IMAGES, LABELS, DIGESTS, SKIPPED, SHARD_SPLITS = "images.npy", "labels.npy", "digests.npy", "skipped.json", "splits.npy"
CODES = {split: code for code, split in enumerate((ALL, *SPLITS))}  # in SHARD_SPLITS


class Shards(NamedTuple):
    """Shards of one format.

    Args:
        filesystem: that holds them.
        format: a value of FORMATS.
        files: sorted by their paths.
        splits: of each file, by its path; ALL if the shards are not split.
    """

    filesystem: "FileSystem"
    format: str
    files: "Sequence[FileInfo]"
    splits: dict[str, str]


def list_shards(data: DataConfig) -> Shards:
    """Find the shards that `data.shards.uri` names: all files below it that end with .tar or .parquet.

    A shard whose path has the name of a split as a word, as in train-00001.tar or data/test/0.parquet, has that split.

    Raises:
        InputError: the storage cannot be read, there are no shards, they have several formats, or some have no split.
    """
    import pyarrow
    from pyarrow.fs import FileSelector, FileSystem

    uri = data.shards.uri
    query = urlsplit(uri).query
    if urlsplit(uri).password or parse_qs(query).keys() & {"access_key", "secret_key", "session_token"}:
        raise InputError(
            "data.shards.uri: contains credentials; put them into the environment (AWS_ACCESS_KEY_ID, ...)"
        )
    try:
        filesystem, root = FileSystem.from_uri(uri if "://" in uri else str(Path(uri).expanduser().absolute()))
        found = filesystem.get_file_info(FileSelector(root, recursive=True))
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"data.shards.uri: {uri}: cannot be read ({reason}); expected a folder, or s3://BUCKET/FOLDER with "
            "credentials in the environment (AWS_ACCESS_KEY_ID, ...)"
        ) from error
    files = sorted((info for info in found if is_shard(info)), key=lambda info: info.path)
    formats = {FORMATS[posixpath.splitext(info.path)[1]] for info in files}
    if len(formats) != 1:
        got = "both" if formats else "neither"
        raise InputError(f"data.shards.uri: {uri}: expected files that end with {' or '.join(FORMATS)}, got {got}")
    return Shards(filesystem, formats.pop(), files, splits_of([info.path for info in files], root, uri))


def is_shard(info: "FileInfo") -> bool:
    """Whether a file is a visible shard."""
    return info.is_file and posixpath.splitext(info.path)[1] in FORMATS and not info.base_name.startswith(".")


def splits_of(paths: Sequence[str], root: str, uri: str) -> dict[str, str]:
    """The split of each shard.

    Raises:
        InputError: only some shards have one, or a split that is needed has no shards.
    """
    splits = {}
    for path in paths:
        words = WORDS.findall(posixpath.splitext(posixpath.relpath(path, root))[0])
        named = {split for word in words if (split := split_of(word))}
        splits[path] = named.pop() if len(named) == 1 else ALL
    found = set(splits.values())
    if found != {ALL} and (ALL in found or not {"train", "test"} <= found):
        names = ", ".join(split or "no split" for split in sorted(found))
        raise InputError(
            f"data.shards.uri: {uri}: the names of the shards mean {names}; expected train and test (and optionally "
            "valid), or none"
        )
    return splits


def shards_fingerprint(data: DataConfig) -> str:
    """A hash that changes if a shard is added, removed, renamed or written.

    Raises:
        InputError: as for `list_shards`.
    """
    lines = (f"{info.path}\0{info.size}\0{info.mtime_ns}\n" for info in list_shards(data).files)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def gathering_id(data: DataConfig) -> str:
    """A hash of everything that gathered images depend on.

    Raises:
        InputError: as for `list_shards`.
    """
    inputs = (shards_fingerprint(data), data.shards.model_dump_json(exclude={"test_fraction"}), PIL.__version__)
    code = b"".join(Path(file).read_bytes() for file in (decoder.__file__, shard_rows.__file__, __file__))
    return hashlib.sha256("\n".join(inputs).encode(errors="surrogateescape") + code).hexdigest()[:16]


def read_shards(root: Path, data: DataConfig) -> RawDataset:
    """Open gathered images, split by the names of their shards, or by their contents.

    Args:
        root: folder of gathered images.
        data: the settings.
    """
    images = np.load(root / IMAGES, mmap_mode="r")
    digests, codes = np.load(root / DIGESTS), np.load(root / SHARD_SPLITS)
    labels = np.load(root / LABELS) if (root / LABELS).exists() else np.arange(len(images))
    given = {split: np.flatnonzero(codes == code) for split, code in CODES.items() if code in codes}

    def keys(some: np.ndarray) -> Iterable[str]:
        return map(str, digests[some].tolist())

    rows, drawn = draw_missing(given, keys, data, data.shards.test_fraction, by="contents")
    by_names = "" if ALL in given else "by the names of the shards"
    name = posixpath.basename(data.shards.uri.partition("?")[0].rstrip("/"))
    height, width = data.shards.size
    return RawDataset(
        images={split: RawArrays.of(images, positions) for split, positions in rows.items()},
        test_labels=as_labels(labels[rows["test"]]),
        train_labels=as_labels(labels[rows["train"]]),
        dataset=f"shards {name}",
        origin=f"images in the shards {name}",
        split="; ".join(filter(None, (by_names, drawn))),
        processing=f"centre cut to {height} : {width}, resized to {height} x {width}, bilinear; "
        f"{'colour' if data.shards.color else 'grey'}",
        skipped=skipped_images(root),
    )


def skipped_images(root: Path) -> dict[str, list[str]]:
    """Shard and reason of each image that could not be read, by the split of its shard.

    Args:
        root: folder of gathered images.
    """
    skipped: dict[str, list[str]] = json.loads((root / SKIPPED).read_text())
    return skipped


SHARDS = DatasetEntry(
    title="the shards",
    image_shape=lambda data: (3 if data.shards.color else 1, *data.shards.size),
    files=lambda data: (),
    read=read_shards,
    fingerprint=shards_fingerprint,
    is_gathered=True,
)
