"""The files of data sets: searched in the data roots, else downloaded."""

import os
import sys
import urllib.request
from collections.abc import Sequence
from concurrent import futures
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from flowvae.datasets.config import DataConfig
from flowvae.datasets.entry import DatasetEntry
from flowvae.errors import InputError
from pipeline import paths

VARIABLE = "FLOWVAE_DATA_ROOT"
PROBE_SECONDS = 2
MAX_TOO_DEEP = 2  # folders: MNIST/raw


def data_roots() -> list[Path]:
    """Folders that are searched for data files: the one that VARIABLE names if it is set, then earlier downloads."""
    given = given_root()
    return [given, paths.DOWNLOADS] if given else [paths.DOWNLOADS]


def given_root() -> Path | None:
    """The folder that VARIABLE names, in which ~ is the home folder; None if it is not set."""
    given = os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else None


def find_files(entry: DatasetEntry, data: DataConfig) -> Path | None:
    """The first data root that holds a data set.

    Raises:
        InputError: VARIABLE names a folder that does not exist, or that is meant to hold the set and does not.
    """
    found = next((root for root in data_roots() if entry.is_in(root, data)), None)
    if found is None and (given := given_root()) and not Path(entry.files(data)[0]).is_absolute():
        check_given(given, entry, data)
    return found


def check_given(given: Path, entry: DatasetEntry, data: DataConfig) -> None:
    """Check that the folder that VARIABLE names lacks a data set altogether.

    Raises:
        InputError: it does not exist, it is a folder too deep or too high, or it holds a part of the files, or all of
            them compressed.
    """
    where = f"{VARIABLE}: {given}"
    if not given.is_dir():
        raise InputError(f"{where}: {'not a folder' if given.exists() else 'does not exist'}; {advice(entry, data)}")
    absolute = given.absolute()
    for other in (*absolute.parents[:MAX_TOO_DEEP], *subfolders(given)):
        if entry.is_in(other, data):
            raise InputError(f"{where}: {entry.title} is in {other}; set {VARIABLE} to that folder")
    missing = entry.missing(given, data)
    if packed := [f"{file}.gz" for file in missing if (given / f"{file}.gz").is_file()]:
        raise InputError(f"{where}: {packed[0]} is compressed; unpack it with gunzip")
    if len(missing) < len(entry.files(data)):
        raise InputError(f"{where}: lacks {', '.join(missing)}, and holds the other files of {entry.title}; add these")


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder; none if it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def advice(entry: DatasetEntry, data: DataConfig) -> str:
    """What to set VARIABLE to."""
    return f"set it to the folder that holds {entry.folder(data)}, or unset it"


def searched(entry: DatasetEntry, data: DataConfig) -> str:
    """Where a data set was searched, and what was missing there."""
    return "; ".join(f"{name_of(root)} has no {entry.missing(root, data)[0]}" for root in data_roots())


def name_of(root: Path) -> str:
    """A data root, with the variable that names it."""
    return f"{VARIABLE} ({root})" if root == given_root() else str(root)


def obtain(entry: DatasetEntry, data: DataConfig) -> Path:
    """Find a data set, or download it.

    Returns:
        The data root that holds it.

    Raises:
        InputError: the data set is unavailable; the message says where to put its files.
    """
    if root := find_files(entry, data):
        return root
    if not entry.can_be_downloaded:
        if Path(entry.files(data)[0]).is_absolute():  # it is in the settings, and the reader reports what is wrong
            return data_roots()[0]
        raise InputError(f"{entry.title}: {searched(entry, data)}; {entry.by_hand(data)}")
    try:
        download(entry, data)
    except InputError as error:
        raise InputError(f"{error}; {entry.by_hand(data)}") from error
    return paths.DOWNLOADS


def download(entry: DatasetEntry, data: DataConfig) -> None:
    """Download a data set if one of its mirrors answers.

    Raises:
        InputError: no mirror answers, or the download failed.
    """
    if not any_answers(entry.addresses):
        raise InputError(f"{entry.title}: {searched(entry, data)}, and no mirror answers")
    print(f"{entry.title}: downloading into {paths.DOWNLOADS}", file=sys.stderr)
    entry.download(paths.DOWNLOADS, data)


def any_answers(addresses: Sequence[str]) -> bool:
    """Whether one address answers soon. The download itself has no time limit, so it would hang without a network."""
    pool = futures.ThreadPoolExecutor(len(addresses))
    try:
        return any(pool.map(answers, addresses, timeout=2 * PROBE_SECONDS))
    except futures.TimeoutError:  # in Python 3.10 not the built-in one
        return False
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def answers(address: str) -> bool:
    """Whether a server answers a HEAD request."""
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as response:
            return response.status < 500
    except HTTPError as error:  # a server that refuses HEAD may still serve the file
        error.close()  # it holds a socket
        return error.code < 500
    except (OSError, HTTPException):
        return False
