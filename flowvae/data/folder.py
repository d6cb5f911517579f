"""A folder of images of one's own: any number, any format that Pillow reads, in folders or not."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from flowvae.data.config import DataConfig
from flowvae.data.rows import SPLITS, ImageFiles, Source, as_labels, held_out
from flowvae.data.streaming import fingerprint
from flowvae.errors import InputError


def folder_of(data: DataConfig) -> Path:
    """The folder that the settings name, relative to the working folder or not."""
    return Path(data.folder.path).expanduser().absolute()


def read_folder(root: Path, data: DataConfig) -> Source:
    """Images under a folder, split by its folders train, valid (or val) and test, or by seeded fractions.

    An image is cut to the proportions of `data.folder.size`, the largest part of its centre, and resized. Its label
    is the first folder that it lies in; without such folders each image is a class of its own.

    Args:
        root: is not read: the folder is `data.folder.path`.
        data: the settings.

    Raises:
        InputError: the folder cannot be read, holds no images, or is only half split.
    """
    folder = folder_of(data)
    split = split_folder(list_images(folder, data), data)
    (height, width), color = data.folder.size, "colour" if data.folder.color else "grey"
    return Source(
        images=split.images,
        test_labels=classes(split.images["test"], split.label_depth),
        dataset=f"folder {folder.name}",
        origin=f"images in the folder {folder.name}",
        split=split.words,
        processing=f"centre cut to {height} : {width}, resized to {height} x {width}, bilinear; {color}",
    )


def folder_fingerprint(data: DataConfig) -> str:
    """A hash that changes when a file of the folder is added, taken away, renamed or written (`fingerprint`).

    Raises:
        InputError: the folder cannot be read, or holds no images.
    """
    return fingerprint({"": list_images(folder_of(data), data)})


def list_images(folder: Path, data: DataConfig) -> ImageFiles:
    """All images under a folder, in the order of their names; hidden files are passed over.

    Raises:
        InputError: the folder cannot be read, or holds no images.
    """
    how = {"size": data.folder.size, "color": data.folder.color, "crop": None, "invert": False}
    endings = image_endings()
    names = sorted(name for name in walk(folder) if os.path.splitext(name)[1].lower() in endings)
    if not names:
        raise InputError(f"data.folder.path: {folder} holds no images; name a folder that does")
    return ImageFiles(folder, names, how)


def walk(folder: Path) -> Iterator[str]:
    """Names of all files under a folder, relative to it, with /; a folder that a link leads to again counts once."""

    def refuse(error: OSError) -> None:
        raise InputError(f"data.folder.path: {error.filename}: cannot be read ({error.strerror}); mend it") from error

    def is_new(path: str) -> bool:
        real = os.path.realpath(path)
        return not (real in seen or seen.add(real))

    seen = {os.path.realpath(folder)}
    for path, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if is_new(os.path.join(path, name))]
        place = Path(path).relative_to(folder)
        yield from ((place / name).as_posix() for name in files if not name.startswith("."))


def image_endings() -> set[str]:
    """Of the formats that Pillow reads by itself: .png, .jpg, ..."""
    endings = Image.registered_extensions()  # which loads all of Pillow's plugins
    formats = (Image.OPEN.keys() | READ_AS_JPEG) - KNOWN_BUT_NOT_READ
    return {ending for ending, form in endings.items() if form in formats}


READ_AS_JPEG = {"MPO"}
KNOWN_BUT_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # without another program


# Folders, whatever their case, and their splits.
FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}


class Split(NamedTuple):
    """The images of each split.

    Args:
        images: by split.
        words: how they came about.
        label_depth: of the folders that are labels, below the folder of images.
    """

    images: Mapping[str, ImageFiles]
    words: str
    label_depth: int


def split_folder(images: ImageFiles, data: DataConfig) -> Split:
    """By the folders that FOLDERS names where there are such, else at random.

    Raises:
        InputError: there is a folder train or test without the other, or images lie beside them.
    """
    tops = [name.split("/")[0] if "/" in name else "" for name in images.names]
    parts = np.array([FOLDERS.get(top.lower(), "") for top in tops])
    found = set(parts.tolist())
    if not found & set(SPLITS):
        return split_at_random(images, data)
    for split in ("train", "test"):
        if split not in found:
            there = ", ".join(sorted({top for top in tops if top.lower() in FOLDERS}))
            raise InputError(
                f"data.folder.path: {images.folder} has images in {there}, and none in {split}; "
                "give it train and test (and valid), or none of them"
            )
    if "" in found:
        first = images.names[parts.tolist().index("")]
        raise InputError(
            f"data.folder.path: {images.folder / first} is outside {', '.join(SPLITS)}; move it into one of them"
        )
    places = {split: np.flatnonzero(parts == split) for split in SPLITS}
    words = "by its folders"
    if not len(places["valid"]):
        kept, out = held_out(len(places["train"]), data.valid_fraction, data.seed)
        places |= {"train": places["train"][kept], "valid": places["train"][out]}
        words += f", {data.valid_fraction:.3g} of train drawn for validation (seed {data.seed})"
    return Split({split: images.pick(places[split]) for split in SPLITS}, words, label_depth=1)


def split_at_random(images: ImageFiles, data: DataConfig) -> Split:
    """Test images drawn from all, then validation images from the rest."""
    rest, test = held_out(len(images), data.folder.test_fraction, data.seed)
    kept, valid = held_out(len(rest), data.valid_fraction, data.seed)
    words = (
        f"{data.folder.test_fraction:.3g} of all images for test, {data.valid_fraction:.3g} of the rest for "
        f"validation, drawn (seed {data.seed})"
    )
    drawn = {"train": images.pick(rest[kept]), "valid": images.pick(rest[valid]), "test": images.pick(test)}
    return Split(drawn, words, label_depth=0)


def classes(images: ImageFiles, depth: int) -> np.ndarray:
    """A number for each image: that of the folder it lies in at some depth, or its own where there is one folder."""
    folders = [name.split("/")[depth] if name.count("/") > depth else "" for name in images.names]
    names, labels = np.unique(folders, return_inverse=True)
    return as_labels(labels if len(names) > 1 else np.arange(len(folders)))
