"""fetch: check params.yaml, then find or download the best data that can be had.

Runs on every `dvc repro`, so that better data are noticed; writes the same bytes while nothing changed.
"""

import sys
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flowvae.config import DataConfig
from flowvae.data import sources
from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import read_json, write_json
from pipeline.params import Params, check_models, read_yaml, unread_keys
from pipeline.points import check_sweeps

PROBE_SECONDS = 2


def run(params: Params) -> None:
    """Write which source `prepare` is to read: 'mnist', 'larochelle' or 'fallback'."""
    check_models(params, paths.PARAMS)
    if problems := list(check_sweeps(params)):
        raise InputError("\n".join(f"{paths.PARAMS}: {problem}" for problem in problems))
    unread = unread_keys(read_yaml(paths.PARAMS), read_yaml(Path("dvc.yaml"))["stages"])
    if unread:
        raise InputError("\n".join(f"{paths.PARAMS}: {key}: read by no stage; list it in dvc.yaml" for key in unread))
    source = find(params.data)
    write_json(paths.SOURCE, {"source": source})
    if source == "fallback":
        print(sources.FALLBACK_BANNER, file=sys.stderr)


def find(data: DataConfig) -> str:
    """The best source that can be had now.

    Raises:
        InputError: there is none that `data` allows.
    """
    looked = ", ".join(map(str, paths.data_roots()))
    if data.binarization == "larochelle":
        if paths.find_root(sources.has_larochelle) or prepared_from("larochelle"):
            return "larochelle"
        raise InputError(
            "data.binarization: larochelle needs binarized_mnist/binarized_mnist_{train,valid,test}.amat or .amat.gz "
            f"(their public address is gone); looked in {looked}; set FLOWVAE_DATA_ROOT to the folder that holds them"
        )
    if paths.find_root(sources.has_mnist) or prepared_from("mnist") or download():
        return "mnist"
    if data.fallback:
        return "fallback"
    raise InputError(
        f"data.fallback: is false, and MNIST/raw is neither in {looked} nor can it be downloaded; "
        "set FLOWVAE_DATA_ROOT to the folder that holds it"
    )


def download() -> bool:
    """Download MNIST if a mirror answers; False, with the reason on standard error, if it cannot be had."""
    if not any_answers(sources.MNIST_ADDRESSES):
        print("fetch: MNIST is in no folder, and no mirror answers", file=sys.stderr)
        return False
    try:
        sources.download_mnist(paths.DOWNLOADS)
    except InputError as error:
        print(f"fetch: {error}", file=sys.stderr)
        return False
    return True


def any_answers(addresses: Sequence[str]) -> bool:
    """Whether one address answers soon. The download itself has no time limit, so a dead network would hang it."""
    pool = ThreadPoolExecutor(len(addresses))
    try:
        return any(pool.map(answers, addresses, timeout=2 * PROBE_SECONDS))
    except TimeoutError:
        return False
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def answers(address: str) -> bool:
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as response:
            return response.status == 200
    except OSError:
        return False


def prepared_from(source: str) -> bool:
    """Whether arrays from this source are there already, made earlier or pulled: never exchanged for less."""
    path = paths.PREPARED / "metadata.json"
    return path.is_file() and read_json(path).get("source") == source
