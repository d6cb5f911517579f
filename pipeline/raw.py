"""The files that data sets are made of: found in the data roots, else downloaded."""

import sys
import urllib.request
from collections.abc import Sequence
from concurrent import futures
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from flowvae.data.config import DataConfig
from flowvae.data.datasets import Dataset
from flowvae.errors import InputError
from pipeline import paths

PROBE_SECONDS = 2


def find_raw(dataset: Dataset, data: DataConfig) -> Path | None:
    """The first data root that holds a data set."""
    return paths.find_root(lambda root: dataset.is_in(root, data))


def obtain(dataset: Dataset, data: DataConfig) -> Path:
    """The data root that holds a data set, after a download if need be.

    Raises:
        InputError: it cannot be had; with where to put its files.
    """
    if root := find_raw(dataset, data):
        return root
    if dataset.torchvision is None:  # nothing downloads it: who reads it says what is missing
        return paths.data_roots()[0]
    try:
        download(dataset, data)
    except InputError as error:
        looked = ", ".join(str(root / dataset.home(data)) for root in paths.data_roots())
        raise InputError(f"{error}; looked in {looked}; {dataset.by_hand(data)}") from error
    return paths.DOWNLOADS


def download(dataset: Dataset, data: DataConfig) -> None:
    """Download a data set if a mirror answers.

    Raises:
        InputError: none does, or the download failed.
    """
    if not any_answers(dataset.addresses):
        raise InputError(f"{dataset.title} is in no folder, and no mirror answers")
    print(f"{dataset.title}: downloading into {paths.DOWNLOADS}", file=sys.stderr)
    dataset.download(paths.DOWNLOADS, data)


def any_answers(addresses: Sequence[str]) -> bool:
    """Whether one address answers soon. The download itself has no time limit, so a dead network would hang it."""
    pool = futures.ThreadPoolExecutor(len(addresses))
    try:
        return any(pool.map(answers, addresses, timeout=2 * PROBE_SECONDS))
    except futures.TimeoutError:  # in Python 3.10 not the built-in one
        return False
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def answers(address: str) -> bool:
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as response:
            return response.status < 500
    except HTTPError as error:  # whoever refuses this question may yet give the file
        return error.code < 500
    except (OSError, HTTPException):
        return False
