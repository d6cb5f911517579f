"""How the images of a folder are split: by folders with the names of splits, else by a hash of each image's name."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np

from flowvae.data.arrays import SPLITS
from flowvae.datasets.config import DataConfig
from flowvae.datasets.drawing import ALL, draw_missing
from flowvae.datasets.raw import RawFiles
from flowvae.errors import InputError

# What names of folders mean, in lower case and without what ADDED matches.
NAMES = {
    **{"train": "train", "training": "train"},
    **{"valid": "valid", "val": "valid", "validation": "valid"},
    **{"test": "test", "testing": "test"},
}
ADDED = re.compile(r"^(images|imgs|img)|(images|image|imgs|img|data|set|split)$")  # train_images, testset, images-val
SEPARATORS = re.compile(r"[-_. ]+")
WORDS = re.compile(r"[a-z]+|[A-Z][a-z]*")  # of train2017, trainA, test_new
# Words that make a name look like that of a split, without being one.
SIMILAR = NAMES | {"dev": "valid", "eval": "test", "evaluation": "test", "holdout": "test", "heldout": "test"}
SIMILARITY = 0.75  # of misspelled words


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
    """Split images by folders with the names in NAMES if there are any, else by a hash of their names.

    Folders that enclose everything are looked through, so `images` may hold one folder that holds train and test. An
    image that is drawn stays in its split whatever is added or removed, and wherever the folder is moved.

    Raises:
        InputError: only one of the folders train and test exists, there are images outside these folders, or names
            of folders only look like those of splits.
    """
    depth = enclosing_depth(images.names)
    inner = [name.split("/")[depth:] for name in images.names]
    tops = [parts[0] if len(parts) > 1 else "" for parts in inner]
    found = np.array([split_of(top) or ALL for top in tops])
    given = {split: np.flatnonzero(found == split) for split in (ALL, *SPLITS) if split in found}
    is_split = given.keys() != {ALL}
    if is_split:
        check_folders(images, tops, given)
    else:
        check_names(images, {top for top in tops if top}, {part for parts in inner for part in parts[1:-1]})

    def names(rows: np.ndarray) -> list[str]:
        return ["/".join(inner[i]) for i in rows]

    rows, drawn = draw_missing(given, names, data, data.folder.test_fraction, by="names")
    by_folders = f"by the folders {', '.join(sorted(set(tops)))}" if is_split else ""
    return FolderSplit(
        {split: images.pick(rows[split]) for split in SPLITS},
        "; ".join(filter(None, (by_folders, drawn))),
        depth + is_split,
    )


def check_folders(images: RawFiles, tops: Sequence[str], given: Mapping[str, np.ndarray]) -> None:
    """Check that images which folders split are split completely.

    Raises:
        InputError: only one of the folders train and test exists, or there are images outside the folders of splits.
    """
    for split in ("train", "test"):
        if split not in given:
            folders = ", ".join(sorted({top for top in tops if split_of(top)}))
            raise InputError(
                f"data.folder.path: {images.folder} has images in {folders}, but none in {split}; "
                "provide both train and test (and optionally valid), or none of these folders"
            )
    if ALL in given:
        first = images.names[given[ALL][0]]
        raise InputError(
            f"data.folder.path: {images.folder / first} is outside {', '.join(SPLITS)}; move it into one of them"
        )


def enclosing_depth(names: Sequence[str]) -> int:
    """The number of folders, one in the other, that enclose all images and do not have the name of a split."""
    depth = 0
    while True:
        tops = {tuple(name.split("/")[depth : depth + 2][:-1]) for name in names}
        if len(tops) > 1 or tops == {()} or split_of(*next(iter(tops))):
            return depth
        depth += 1


def split_of(folder: str) -> str | None:
    """The split that the name of a folder means; None if it means none."""
    name = SEPARATORS.sub("", folder.lower())
    return NAMES.get(name) or NAMES.get(ADDED.sub("", name))


def check_names(images: RawFiles, tops: Iterable[str], nested: Iterable[str]) -> None:
    """Check that images without folders for splits are not split in another way, which would mix train and test.

    Raises:
        InputError: the folder has names such as train2017 and test2017, or folders such as cats/train and cats/test.
    """
    similar = {top: split for top in sorted(tops) if (split := similar_split(top))}
    if "train" in similar.values() and len(set(similar.values())) > 1:
        raise InputError(
            f"data.folder.path: {images.folder} has folders that look like splits ({', '.join(similar)}); rename them "
            "to train, valid and test, or so that they do not"
        )
    deep = {split_of(folder) for folder in nested}
    if "train" in deep and "test" in deep:
        first = next(name for name in images.names if any(map(split_of, name.split("/")[:-1])))
        raise InputError(
            f"data.folder.path: {images.folder / first} is in a folder for one split below a folder for several; make "
            "train and test (and optionally valid) the uppermost folders, with those of classes inside"
        )


def similar_split(folder: str) -> str | None:
    """The split whose name is similar to that of a folder; None if none is."""
    words = [word.lower() for word in WORDS.findall(folder)]
    for word in words:
        if word in SIMILAR:
            return SIMILAR[word]
    close = get_close_matches("".join(words), SIMILAR, n=1, cutoff=SIMILARITY)
    return SIMILAR[close[0]] if close else None
