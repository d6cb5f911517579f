"""Which files under a folder are images, and which are passed over."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from flowvae.datasets.decoder import register_plugins
from flowvae.errors import InputError

READ_AS_JPEG = {"MPO"}
REGISTERED_BUT_UNREADABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # they need another program
HEIF = {".heic", ".heif", ".hif"}
NUMBERED = re.compile(r"\.\w+\.\d+$")  # .jpg.1, as some downloads end
LINK = "links to images that are listed anyway"


class Found(NamedTuple):
    """The files under a folder.

    Args:
        images: names relative to the folder, separated by /, sorted.
        passed_over: how many files are not images, by their endings.
    """

    images: list[str]
    passed_over: Counter[str]


def find_images(folder: Path) -> Found:
    """Find all images under a folder; hidden files and folders do not count.

    Links are followed, also broken ones, so that these count as unreadable images. But a link to a visible image or
    folder in the same folder is passed over, because no image may be in a data set twice, and each folder is read once.

    Raises:
        InputError: a folder cannot be read.
    """
    extensions, images, others = image_extensions(), [], Counter[str]()
    for name in file_names(folder):
        if os.path.splitext(name)[1].lower() not in extensions:
            others[ending(name)] += 1
        elif is_repeated(folder, folder / name):
            others[LINK] += 1
        else:
            images.append(name)
    return Found(sorted(images), others)


def passed_over_text(passed_over: Counter[str]) -> str | None:
    """A description of files that are passed over: '7 files passed over: 5 .heic, 2 .jpg.1'; None for no files."""
    if not passed_over:
        return None
    kinds = ", ".join(
        f"{count:,} {kind}" for kind, count in sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    )
    total = sum(passed_over.values())
    text = f"{total:,} {'file' if total == 1 else 'files'} passed over: {kinds}"
    return f"{text} (pip install pillow-heif to read HEIF)" if HEIF & passed_over.keys() else text


def ending(name: str) -> str:
    """What a file's name ends with, in lower case: .txt, or .jpg.1."""
    found = NUMBERED.search(name.rpartition("/")[2])
    return (found[0] if found else os.path.splitext(name)[1]).lower() or "without an ending"


def file_names(folder: Path) -> Iterator[str]:
    """Names of all visible files under a folder, relative to it, separated by /.

    Raises:
        InputError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(
            f"data.folder.path: {error.filename}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error

    def is_new(path: str) -> bool:
        real = os.path.realpath(path)
        if real in visited or is_repeated(folder, Path(path)):
            return False
        visited.add(real)
        return True

    visited = {os.path.realpath(folder)}
    for path, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if is_new(os.path.join(path, name))]
        relative = Path(path).relative_to(folder)
        yield from ((relative / name).as_posix() for name in files if not name.startswith("."))


def is_repeated(folder: Path, path: Path) -> bool:
    """Whether a path is a link to something visible in the same folder, which is read where it is."""
    if not path.is_symlink() or not path.exists():
        return False
    root, target = folder.resolve(), path.resolve()
    return target.is_relative_to(root) and not any(part.startswith(".") for part in target.relative_to(root).parts)


def image_extensions() -> set[str]:
    """Extensions of the formats that Pillow reads without other programs: .png, .jpg, ..."""
    register_plugins()
    extensions = Image.registered_extensions()  # this call loads all of Pillow's plugins
    formats = (Image.OPEN.keys() | READ_AS_JPEG) - REGISTERED_BUT_UNREADABLE
    return {extension for extension, name in extensions.items() if name in formats}
