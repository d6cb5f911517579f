"""Arrays of your own: a .npy or .npz file, or a folder of .npy files, with the names that most of them have.

.npy files are mapped, so they may be larger than memory. .npz files are read into memory.
"""

import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flowvae.config import ImageShape
from flowvae.data.arrays import SPLITS
from flowvae.datasets.config import DataConfig
from flowvae.datasets.decoding import size_and_time
from flowvae.datasets.drawing import ALL, draw_missing
from flowvae.datasets.entry import DatasetEntry
from flowvae.datasets.folder_split import split_of
from flowvae.datasets.raw import RawArrays, RawDataset, as_labels
from flowvae.errors import InputError

LABELS = re.compile(r"^y(_|$)|labels?|targets?")  # in names of labels: y_train, test_labels
KIND = re.compile(r"^[xy]_|_?(labels?|targets?)_?")  # what a name has beside the name of a split
NOT_SPLIT = {"", "x", "y", "images", "data", "arr_0"}  # what remains of names of arrays that are not split
EXPECTED = "train and test (and optionally valid), or images"


class Parts(NamedTuple):
    """Names of arrays, by their splits."""

    images: dict[str, str]
    labels: dict[str, str]
    passed_over: list[str]


class Rows(NamedTuple):
    """Images of an array.

    Args:
        source: the split that the array has by its name.
        rows: positions in the array.
    """

    source: str
    rows: np.ndarray


def path_of(data: DataConfig) -> Path:
    """Absolute path in the settings, which may be relative to the working directory."""
    return Path(data.arrays.path).expanduser().absolute()


def read_arrays(root: Path, data: DataConfig) -> RawDataset:
    """Read arrays of uint8 of shape (N, C, H, W), (N, H, W, C) or, of grey images, (N, H, W).

    Their names are those of splits; an array that is not split is split at random, where an image's split follows from
    its position, so it stays if images are appended. Labels of test images are optional.

    Args:
        root: unused, because the path is `data.arrays.path`.
        data: the settings.

    Raises:
        InputError: files are missing, damaged or of another type or shape, or their names are unknown.
    """
    path = path_of(data)
    with array_errors(path), open_arrays(path) as arrays:
        parts = parts_of(path, arrays)
        pixels = {split: arrays[name] for split, name in parts.images.items()}
        given = {split: arrays[name] for split, name in parts.labels.items() if split != "valid"}
    images = {split: as_images(path, parts.images[split], pixels[split], data.arrays.shape) for split in pixels}
    splits, description = split_rows({split: len(array) for split, array in images.items()}, data)
    labels = {
        source: labels_of(path, parts.labels[source], array, len(images[source])) for source, array in given.items()
    }
    source, test_rows = splits["test"]
    without = np.arange(len(images[source]))  # each image is a class of its own
    train_source, train_rows = splits["train"]
    is_labelled = source in labels and train_source in labels
    return RawDataset(
        images={split: RawArrays.of(images[source], rows) for split, (source, rows) in splits.items()},
        test_labels=as_labels(labels.get(source, without)[test_rows]),
        train_labels=as_labels(labels[train_source][train_rows]) if is_labelled else None,
        dataset=f"arrays {path.name}",
        origin=f"arrays in {path.name}",
        split=description,
        note=f"arrays passed over: {', '.join(parts.passed_over)}" if parts.passed_over else None,
    )


def array_paths(path: Path) -> list[Path]:
    """The files that a path means: itself, or the .npy files in a folder.

    Raises:
        InputError: there are none.
    """
    files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"data.arrays.path: {path} contains no .npy files; expected {EXPECTED}")
    if not path.exists() or files[0].suffix not in (".npy", ".npz"):
        problem = "is neither .npy, .npz nor a folder" if path.exists() else "does not exist"
        raise InputError(
            f"data.arrays.path: {path} {problem}; set it to a .npy or .npz file, or to a folder of .npy files"
        )
    return files


@contextmanager
def open_arrays(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Arrays by name. Those in an .npz file are read when they are asked for, within this context.

    Raises:
        InputError: there are no files.
        OSError, ValueError, EOFError, BadZipFile: a file is damaged.
    """
    files = array_paths(path)
    if path.suffix == ".npz" and path.is_file():
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("it is one array, as in .npy files")
            yield arrays
    else:
        yield {
            "images" if file == path else file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files
        }


@contextmanager
def array_errors(path: Path) -> Iterator[None]:
    """Turn any error of NumPy's reader into one line.

    Raises:
        InputError: a file is missing, damaged or holds other things than numbers.
    """
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read as arrays of numbers ({reason}); write it with np.save") from error


def parts_of(path: Path, names: Mapping[str, np.ndarray]) -> Parts:
    """Which array is what, by its name.

    Raises:
        InputError: there are no images of a split that is needed, or names have the same meaning.
    """
    parts = Parts({}, {}, [])
    for name in names:
        rest = KIND.sub("", name.lower())
        split = split_of(rest) or (ALL if rest in NOT_SPLIT else None)
        kind = parts.labels if LABELS.search(name.lower()) else parts.images
        if split is None:
            parts.passed_over.append(name)
        elif split in kind:
            raise InputError(f"data.arrays.path: {path} has {kind[split]} and {name}, which mean the same; remove one")
        else:
            kind[split] = name
    found = set(parts.images)
    if found != {ALL} and not {"train", "test"} <= found <= set(SPLITS):
        raise InputError(f"data.arrays.path: {path} has arrays {', '.join(names)}; expected {EXPECTED}")
    return parts


def as_images(path: Path, name: str, array: np.ndarray, shape: ImageShape) -> np.ndarray:
    """A view of images in which their shape is (N, C, H, W).

    Raises:
        InputError: they have another type or shape.
    """
    if array.dtype != np.uint8:
        raise InputError(f"{path}: {name}: expected uint8, 0 to 255, got {array.dtype}; convert it")
    channels, height, width = shape
    if array.shape[1:] == shape:
        return array
    if array.shape[1:] == (height, width, channels):
        return array.transpose(0, 3, 1, 2)
    if channels == 1 and array.shape[1:] == (height, width):
        return array[:, None]
    raise InputError(
        f"data.arrays.shape: {list(shape)} does not fit {path}: {name}, which has shape {array.shape}; expected "
        f"{('N', *shape)} or {('N', height, width, channels)}"
    )


def labels_of(path: Path, name: str, array: np.ndarray, count: int) -> np.ndarray:
    """Labels, shape (N,).

    Raises:
        InputError: they are not integers, one for each image.
    """
    if not np.issubdtype(array.dtype, np.integer) or array.size != count or len(array) != count:
        raise InputError(
            f"{path}: {name}: expected {count} integers, the labels of as many images, got {array.dtype} of shape "
            f"{array.shape}"
        )
    return np.asarray(array).reshape(-1)


def split_rows(counts: Mapping[str, int], data: DataConfig) -> tuple[dict[str, Rows], str]:
    """Which rows of which arrays are for training, validation and testing, and a description of that.

    Args:
        counts: number of images in each array.
        data: the settings.
    """
    given = {split: np.arange(count) for split, count in counts.items()}
    rows, drawn = draw_missing(given, lambda some: map(str, some), data, data.arrays.test_fraction, by="positions")
    source = ALL if ALL in counts else "train"  # of what is drawn
    sources = {split: split if split in counts else source for split in rows}
    by_names = "" if ALL in counts else "by the names of the arrays"
    return {split: Rows(sources[split], rows[split]) for split in rows}, "; ".join(filter(None, (by_names, drawn)))


def arrays_fingerprint(data: DataConfig) -> str:
    """A hash that changes if a file is added, removed, renamed or written.

    Raises:
        InputError: there are no files.
    """
    lines = (f"{file.name}\0{size_and_time(file)}\n" for file in array_paths(path_of(data)))
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


ARRAYS = DatasetEntry(
    title="your arrays",
    image_shape=lambda data: data.arrays.shape,
    files=lambda data: (str(path_of(data)),),
    read=read_arrays,
    fingerprint=arrays_fingerprint,
)
