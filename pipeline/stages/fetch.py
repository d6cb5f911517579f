"""fetch: check params.yaml, then find or download the best data that can be had.

Runs on every `dvc repro`, so that better data are noticed; writes the same bytes while nothing changed.
"""

import sys
from pathlib import Path

from flowvae.data.config import DataConfig
from flowvae.data.datasets import DATASETS, SOURCES, Dataset, sources_of
from flowvae.data.sources import FALLBACK_BANNER
from flowvae.errors import InputError
from pipeline import paths
from pipeline.files import read_json, write_json
from pipeline.params import Params, check_models, read_yaml, unread_keys
from pipeline.points import check_sweeps
from pipeline.raw import download, find_raw, obtain


def run(params: Params) -> None:
    """Write which of SOURCES `prepare` is to read, and a fingerprint of files that may change."""
    check_models(params, paths.PARAMS)
    if problems := list(check_sweeps(params)):
        raise InputError("\n".join(f"{paths.PARAMS}: {problem}" for problem in problems))
    unread = unread_keys(read_yaml(paths.PARAMS), read_yaml(Path("dvc.yaml"))["stages"])
    if unread:
        raise InputError("\n".join(f"{paths.PARAMS}: {key}: read by no stage; list it in dvc.yaml" for key in unread))
    found = find(params.data)
    write_json(paths.SOURCE, found)
    if found["source"] == DATASETS[params.data.name].fallback:
        print(FALLBACK_BANNER, file=sys.stderr)


def find(data: DataConfig) -> dict[str, str | None]:
    """The best source that can be had now.

    A folder of one's own has a fingerprint, of names, sizes and times of change, so that `prepare` runs again when
    an image comes, goes or changes. Where the folder is absent, arrays that were pulled keep theirs.

    Raises:
        InputError: there is none that `data` allows.
    """
    name, *_ = sources_of(data)
    dataset = SOURCES[name]
    if find_raw(dataset, data):
        return {"source": name, "fingerprint": dataset.fingerprint(data)}
    if earlier := prepared_from(name):
        return earlier
    if name != data.name:
        raise InputError(
            "data.binarization: larochelle needs binarized_mnist/binarized_mnist_{train,valid,test}.amat or .amat.gz "
            f"(their public address is gone); looked in {looked()}; set FLOWVAE_DATA_ROOT to the folder that holds them"
        )
    if dataset.fallback:
        return {"source": or_fallback(name, dataset, data), "fingerprint": None}
    obtain(dataset, data)
    return {"source": name, "fingerprint": dataset.fingerprint(data)}


def or_fallback(name: str, dataset: Dataset, data: DataConfig) -> str:
    """The data set, downloaded, or what stands in for it, with the reason on standard error.

    Raises:
        InputError: it cannot be had, and nothing may stand in.
    """
    try:
        download(dataset, data)
        return name
    except InputError as error:
        print(f"fetch: {error}", file=sys.stderr)
    if data.fallback:
        return dataset.fallback
    raise InputError(
        f"data.fallback: is false, and {dataset.home(data)} is neither in {looked()} nor can it be downloaded; "
        "set FLOWVAE_DATA_ROOT to the folder that holds it"
    )


def looked() -> str:
    return ", ".join(map(str, paths.data_roots()))


def prepared_from(source: str) -> dict[str, str | None] | None:
    """What this stage wrote of arrays that are there already, made earlier or pulled: never exchanged for less."""
    path = paths.PREPARED / "metadata.json"
    if not path.is_file() or (metadata := read_json(path)).get("source") != source:
        return None
    return {"source": source, "fingerprint": metadata.get("fingerprint")}
