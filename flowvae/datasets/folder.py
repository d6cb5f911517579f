"""A folder of images: any number of files, in any format that Pillow reads, with or without subfolders.

An uncompressed tar archive of such a folder is read in place.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from flowvae.datasets.config import DataConfig
from flowvae.datasets.decoder import DecodeOptions
from flowvae.datasets.decoding import fingerprint
from flowvae.datasets.entry import DatasetEntry
from flowvae.datasets.folder_split import split_folder
from flowvae.datasets.image_files import find_images, passed_over_text
from flowvae.datasets.raw import RawDataset, RawFiles, as_labels
from flowvae.datasets.tar_files import tar_images
from flowvae.errors import InputError


def folder_of(data: DataConfig) -> Path:
    """Absolute path of the folder in the settings, which may be relative to the working directory."""
    return Path(data.folder.path).expanduser().absolute()


def read_folder(root: Path, data: DataConfig) -> RawDataset:
    """Read a folder of images, split by its folders train, valid (or val) and test, or by seeded fractions.

    Folders that enclose all images are looked through. Each image is cropped to its largest central part with the
    proportions of `data.folder.size`, and resized. Its label is the uppermost folder (below train or test, if the
    folder is split); if there is only one such folder, each image is a class of its own.

    Args:
        root: unused, because the folder is `data.folder.path`.
        data: the settings.

    Raises:
        InputError: the folder cannot be read, contains no images, or is only partly split.
    """
    folder = folder_of(data)
    images, passed_over = list_images(folder, data)
    split = split_folder(images, data)
    test_labels, train_labels = classes(split.images["test"], split.images["train"], split.label_depth)
    (height, width), color = data.folder.size, "colour" if data.folder.color else "grey"
    return RawDataset(
        images=split.images,
        test_labels=test_labels,
        train_labels=train_labels,
        dataset=f"folder {folder.name}",
        origin=f"images in the folder {folder.name}",
        split=split.description,
        processing=f"centre cut to {height} : {width}, resized to {height} x {width}, bilinear; {color}",
        note=passed_over_text(passed_over),
    )


def folder_fingerprint(data: DataConfig) -> str:
    """A hash that changes if a file of the folder is added, removed, renamed or written (`fingerprint`).

    Raises:
        InputError: the folder cannot be read, or contains no images.
    """
    images, _ = list_images(folder_of(data), data)
    return fingerprint({"": images})


def list_images(folder: Path, data: DataConfig) -> tuple[RawFiles, Counter[str]]:
    """List all images under a folder, sorted by name, and count the files that are passed over by their endings.

    Raises:
        InputError: the folder cannot be read, or contains no images.
    """
    options = DecodeOptions(size=data.folder.size, color=data.folder.color, crop=None, invert=False)
    if folder.suffix == ".tar" and folder.is_file():
        images, passed_over = tar_images(folder, options)
    else:
        names, passed_over = find_images(folder)
        images = RawFiles(folder, names, options)
    if not len(images):
        others = f" ({text})" if (text := passed_over_text(passed_over)) else ""
        raise InputError(f"data.folder.path: {folder} contains no images{others}; set it to a folder of images")
    return images, passed_over


def classes(test: RawFiles, train: RawFiles, depth: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Class numbers of test and of training images, shape (N,) each.

    Args:
        test, train: the files.
        depth: of the folder whose number is the class; folders of training images alone get the last numbers. If all
            test images are in one folder, each is its own class, and training images have none.
    """
    folders, others = ([folder_at(name, depth) for name in images.names] for images in (test, train))
    names, labels = np.unique(folders, return_inverse=True)
    if len(names) == 1:
        return as_labels(np.arange(len(folders))), None
    numbers = {name: i for i, name in enumerate([*names.tolist(), *sorted(set(others) - set(names.tolist()))])}
    return as_labels(labels), as_labels([numbers[name] for name in others])


def folder_at(name: str, depth: int) -> str:
    """The folder at a depth of a file's path; empty if there is none."""
    return name.split("/")[depth] if name.count("/") > depth else ""


FOLDER = DatasetEntry(
    title="the folder",
    image_shape=lambda data: (3 if data.folder.color else 1, *data.folder.size),
    files=lambda data: (str(folder_of(data)),),
    read=read_folder,
    fingerprint=folder_fingerprint,
)
