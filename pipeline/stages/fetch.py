"""fetch: check params.yaml, set aside what it does not declare, then find or download the best available data.

It runs on every `dvc repro`, so that better data are noticed, and writes the same bytes while nothing changes.
"""

import json
import subprocess
import sys
from pathlib import Path

from flowvae.data.arrays import SOURCE
from flowvae.datasets.config import DataConfig
from flowvae.datasets.entry import DatasetEntry
from flowvae.datasets.mnist import FALLBACK_BANNER
from flowvae.datasets.registry import DATASETS, SOURCES, sources_of
from flowvae.errors import InputError
from pipeline import paths
from pipeline.downloads import download, find_files, obtain, searched
from pipeline.files import read_json, write_json
from pipeline.leftovers import set_aside
from pipeline.params.checks import check_models, unread_keys
from pipeline.params.reading import read_yaml
from pipeline.params.schema import Params
from pipeline.study.points import study_problems


def run(params: Params) -> None:
    """Write which entry of SOURCES `prepare` reads, and a fingerprint of files that may change."""
    check_models(params, paths.PARAMS)
    if problems := list(study_problems(params)):
        raise InputError("\n".join(f"{paths.PARAMS}: {problem}" for problem in problems))
    unread = unread_keys(read_yaml(paths.PARAMS), read_yaml(Path("dvc.yaml"))["stages"])
    if unread:
        raise InputError("\n".join(f"{paths.PARAMS}: {key}: no stage reads it; list it in dvc.yaml" for key in unread))
    source = find_source(params.data)
    if missing := absent_results():
        print(f"fetch: {missing}", file=sys.stderr)
    for line in set_aside(params):
        print(f"fetch: {line}", file=sys.stderr)
    write_json(paths.SOURCE, source)
    if source["source"] == DATASETS[params.data.name].fallback:
        print(f"fetch: {FALLBACK_BANNER}", file=sys.stderr)


def find_source(data: DataConfig) -> dict[str, str | None]:
    """Find the best source that is available now.

    A folder of images has a fingerprint of names, sizes and modification times, so that `prepare` runs again if an
    image is added, removed or changed. If the folder is absent, arrays that were pulled keep theirs.

    Raises:
        InputError: no source that `data` allows is available.
    """
    name, *_ = sources_of(data)
    entry = SOURCES[name]
    if find_files(entry, data):
        return found_now(name, entry, data)
    if prepared := prepared_from(name):
        return prepared
    if name != data.name:
        raise InputError(
            "data.binarization: larochelle needs binarized_mnist/binarized_mnist_{train,valid,test}.amat or .amat.gz "
            f"(their public address no longer exists); {searched(entry, data)}; set FLOWVAE_DATA_ROOT to the folder "
            "that holds them"
        )
    if entry.fallback:
        return {"source": downloaded_or_fallback(name, entry, entry.fallback, data), "fingerprint": None}
    obtain(entry, data)
    return {"source": name, "fingerprint": entry.fingerprint(data)}


def found_now(name: str, entry: DatasetEntry, data: DataConfig) -> dict[str, str | None]:
    """A source that is here, or in object storage; arrays that were pulled are kept if that cannot be read.

    Raises:
        InputError: the files cannot be read.
    """
    try:
        return {"source": name, "fingerprint": entry.fingerprint(data)}
    except InputError as error:
        if entry.is_gathered and (prepared := prepared_from(name)):
            print(f"fetch: {error}; the arrays that were prepared are kept", file=sys.stderr)
            return prepared
        raise


def downloaded_or_fallback(name: str, entry: DatasetEntry, fallback: str, data: DataConfig) -> str:
    """Download a data set.

    Returns:
        Its name, or that of the fallback if the download failed; the reason is printed on standard error.

    Raises:
        InputError: the data set is unavailable, and the settings do not allow the fallback.
    """
    try:
        download(entry, data)
        return name
    except InputError as error:
        print(f"fetch: {error}", file=sys.stderr)
    if data.fallback:
        return fallback
    raise InputError(
        f"data.fallback: is false, and {entry.title} cannot be downloaded; {searched(entry, data)}; "
        f"{entry.by_hand(data)}"
    )


def prepared_from(source: str) -> dict[str, str | None] | None:
    """What this stage wrote for arrays that exist already, made here or pulled; they are never replaced by less.

    If `prepare` failed, DVC has deleted them from the folder, but dvc.lock names them, and DVC's cache has them.
    """
    path = paths.PREPARED / SOURCE
    if not path.is_file():
        restore_prepared()
    return found if path.is_file() and (found := read_json(path)).get("source") == source else None


def restore_prepared() -> None:
    """Let DVC write the arrays that dvc.lock names, if its cache or its remote has them; nothing happens if not."""
    if ask_dvc("checkout", "--force", str(paths.PREPARED)) is None:
        ask_dvc("pull", "--force", str(paths.PREPARED))


def absent_results() -> str | None:
    """A warning if dvc.lock names models that are neither here nor in DVC's cache, as in a fresh clone."""
    if paths.MODELS.exists() or (answer := ask_dvc("data", "status", "--json")) is None:
        return None
    absent = [path for path in json.loads(answer).get("not_in_cache", []) if Path(path).parts[0] == paths.MODELS.name]
    if not absent:
        return None
    return (
        f"the files of {len(absent)} models whose results are committed are neither here nor in DVC's cache, so they "
        "are trained again; if the project has a DVC remote, stop this, and run dvc pull first"
    )


def ask_dvc(*arguments: str) -> str | None:
    """The output of a command of DVC's; None if it failed, or there is nothing of DVC's here."""
    if not Path("dvc.lock").is_file():
        return None
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return None if ran.returncode else ran.stdout
