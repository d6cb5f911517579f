"""A folder of images: any number of files, in any format that Pillow reads, with or without subfolders."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from flowvae.data.arrays import SPLITS
from flowvae.datasets.config import DataConfig
from flowvae.datasets.decoder import DecodeOptions
from flowvae.datasets.decoding import fingerprint
from flowvae.datasets.entry import DatasetEntry
from flowvae.datasets.raw import RawDataset, RawFiles, as_labels, held_out
from flowvae.errors import InputError

# Lower-case names of folders, and their splits.
SPLIT_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
READ_AS_JPEG = {"MPO"}
REGISTERED_BUT_UNREADABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # they need another program


def folder_of(data: DataConfig) -> Path:
    """Absolute path of the folder in the settings, which may be relative to the working directory."""
    return Path(data.folder.path).expanduser().absolute()


def read_folder(root: Path, data: DataConfig) -> RawDataset:
    """Read a folder of images, split by its folders train, valid (or val) and test, or by seeded fractions.

    Each image is cropped to its largest central part with the proportions of `data.folder.size`, and resized. Its
    label is its top-level folder (below train or test, if the folder is split); if there is only one such folder,
    each image is a class of its own.

    Args:
        root: unused, because the folder is `data.folder.path`.
        data: the settings.

    Raises:
        InputError: the folder cannot be read, contains no images, or is only partly split.
    """
    folder = folder_of(data)
    split = split_folder(list_images(folder, data), data)
    (height, width), color = data.folder.size, "colour" if data.folder.color else "grey"
    return RawDataset(
        images=split.images,
        test_labels=classes(split.images["test"], split.label_depth),
        dataset=f"folder {folder.name}",
        origin=f"images in the folder {folder.name}",
        split=split.description,
        processing=f"centre cut to {height} : {width}, resized to {height} x {width}, bilinear; {color}",
    )


def folder_fingerprint(data: DataConfig) -> str:
    """A hash that changes if a file of the folder is added, removed, renamed or written (`fingerprint`).

    Raises:
        InputError: the folder cannot be read, or contains no images.
    """
    return fingerprint({"": list_images(folder_of(data), data)})


def list_images(folder: Path, data: DataConfig) -> RawFiles:
    """List all images under a folder, sorted by name; hidden files are skipped.

    Raises:
        InputError: the folder cannot be read, or contains no images.
    """
    options = DecodeOptions(size=data.folder.size, color=data.folder.color, crop=None, invert=False)
    extensions = image_extensions()
    names = sorted(name for name in file_names(folder) if os.path.splitext(name)[1].lower() in extensions)
    if not names:
        raise InputError(f"data.folder.path: {folder} contains no images; set it to a folder of images")
    return RawFiles(folder, names, options)


def file_names(folder: Path) -> Iterator[str]:
    """Names of all files under a folder, relative to it, separated by /.

    Hidden files and folders are skipped. Links to folders are followed, but each folder is read only once.

    Raises:
        InputError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(
            f"data.folder.path: {error.filename}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error

    def is_new(path: str) -> bool:
        real = os.path.realpath(path)
        if real in visited:
            return False
        visited.add(real)
        return True

    visited = {os.path.realpath(folder)}
    for path, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if is_new(os.path.join(path, name))]
        relative = Path(path).relative_to(folder)
        yield from ((relative / name).as_posix() for name in files if not name.startswith("."))


def image_extensions() -> set[str]:
    """Extensions of the formats that Pillow reads without other programs: .png, .jpg, ..."""
    extensions = Image.registered_extensions()  # this call loads all of Pillow's plugins
    formats = (Image.OPEN.keys() | READ_AS_JPEG) - REGISTERED_BUT_UNREADABLE
    return {extension for extension, name in extensions.items() if name in formats}


class FolderSplit(NamedTuple):
    """The images of each split.

    Args:
        images: by split.
        description: how they were split.
        label_depth: depth of the folders that are labels, below the folder of images.
    """

    images: Mapping[str, RawFiles]
    description: str
    label_depth: int


def split_folder(images: RawFiles, data: DataConfig) -> FolderSplit:
    """Split images by the folders in SPLIT_FOLDERS if there are any, else at random.

    Raises:
        InputError: only one of the folders train and test exists, or there are images outside these folders.
    """
    tops = [name.split("/")[0] if "/" in name else "" for name in images.names]
    parts = np.array([SPLIT_FOLDERS.get(top.lower(), "") for top in tops])
    present = set(parts.tolist())
    if not present & set(SPLITS):
        return split_at_random(images, data)
    for split in ("train", "test"):
        if split not in present:
            folders = ", ".join(sorted({top for top in tops if top.lower() in SPLIT_FOLDERS}))
            raise InputError(
                f"data.folder.path: {images.folder} has images in {folders}, but none in {split}; "
                "provide both train and test (and optionally valid), or none of these folders"
            )
    if "" in present:
        first = images.names[parts.tolist().index("")]
        raise InputError(
            f"data.folder.path: {images.folder / first} is outside {', '.join(SPLITS)}; move it into one of them"
        )
    positions = {split: np.flatnonzero(parts == split) for split in SPLITS}
    description = "by its folders"
    if not len(positions["valid"]):
        kept, out = held_out(len(positions["train"]), data.valid_fraction, data.seed)
        positions |= {"train": positions["train"][kept], "valid": positions["train"][out]}
        description += f", {data.valid_fraction:.3g} of train drawn for validation (seed {data.seed})"
    return FolderSplit({split: images.pick(positions[split]) for split in SPLITS}, description, label_depth=1)


def split_at_random(images: RawFiles, data: DataConfig) -> FolderSplit:
    """Draw test images from all images, then validation images from the rest."""
    rest, test = held_out(len(images), data.folder.test_fraction, data.seed)
    kept, valid = held_out(len(rest), data.valid_fraction, data.seed)
    description = (
        f"{data.folder.test_fraction:.3g} of all images for test, {data.valid_fraction:.3g} of the rest for "
        f"validation, drawn (seed {data.seed})"
    )
    drawn = {"train": images.pick(rest[kept]), "valid": images.pick(rest[valid]), "test": images.pick(test)}
    return FolderSplit(drawn, description, label_depth=0)


def classes(images: RawFiles, depth: int) -> np.ndarray:
    """Class numbers of images, shape (N,).

    Args:
        images: the files.
        depth: of the folder whose number is the class. If all images are in one folder, each is its own class.
    """
    folders = [name.split("/")[depth] if name.count("/") > depth else "" for name in images.names]
    names, labels = np.unique(folders, return_inverse=True)
    return as_labels(labels if len(names) > 1 else np.arange(len(folders)))


FOLDER = DatasetEntry(
    title="the folder",
    image_shape=lambda data: (3 if data.folder.color else 1, *data.folder.size),
    files=lambda data: (str(folder_of(data)),),
    read=read_folder,
    fingerprint=folder_fingerprint,
)
