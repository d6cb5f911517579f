"""The files of data sets: searched in the data roots, else downloaded."""

import os
import sys
import urllib.request
from collections.abc import Callable, Sequence
from concurrent import futures
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from flowvae.datasets.config import DataConfig
from flowvae.datasets.entry import DatasetEntry
from flowvae.errors import InputError
from pipeline import paths

PROBE_SECONDS = 2


def data_roots() -> list[Path]:
    """Folders that are searched for data files: FLOWVAE_DATA_ROOT if set, then earlier downloads."""
    given = os.environ.get("FLOWVAE_DATA_ROOT")
    return [Path(given), paths.DOWNLOADS] if given else [paths.DOWNLOADS]


def first_root(holds: Callable[[Path], bool]) -> Path | None:
    """The first data root that meets a condition."""
    return next(filter(holds, data_roots()), None)


def find_files(entry: DatasetEntry, data: DataConfig) -> Path | None:
    """The first data root that holds a data set."""
    return first_root(lambda root: entry.is_in(root, data))


def obtain(entry: DatasetEntry, data: DataConfig) -> Path:
    """Find a data set, or download it.

    Returns:
        The data root that holds it.

    Raises:
        InputError: the data set is unavailable; the message says where to put its files.
    """
    if root := find_files(entry, data):
        return root
    if entry.torchvision is None:  # it cannot be downloaded: its reader reports what is missing
        return data_roots()[0]
    try:
        download(entry, data)
    except InputError as error:
        searched = ", ".join(str(root / entry.folder(data)) for root in data_roots())
        raise InputError(f"{error}; searched in {searched}; {entry.by_hand(data)}") from error
    return paths.DOWNLOADS


def download(entry: DatasetEntry, data: DataConfig) -> None:
    """Download a data set if one of its mirrors answers.

    Raises:
        InputError: no mirror answers, or the download failed.
    """
    if not any_answers(entry.addresses):
        raise InputError(f"{entry.title} is in no folder, and no mirror answers")
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
        return error.code < 500
    except (OSError, HTTPException):
        return False
