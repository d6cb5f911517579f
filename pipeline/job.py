"""What a submitted job runs on the cluster: python -m pipeline.job NAME [TARGET ...].

In a copy of the project that came with the job: takes the prepared data from FLOWVAE_STORAGE, reproduces
the targets with DVC, and leaves what came out in FLOWVAE_STORAGE under the job's name, with a manifest.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dvc.repo import Repo

from flowvae.data.arrays import read_metadata
from flowvae.errors import InputError
from flowvae.files import sha256
from pipeline import paths
from pipeline.distributed.arrays import fetch_arrays
from pipeline.distributed.storage import Storage
from pipeline.files import write_json
from pipeline.home import MANIFEST

DATA_STAGES = ("fetch", "prepare")
IGNORED = shutil.ignore_patterns("__pycache__", ".venv")


def main() -> int:
    name, *targets = sys.argv[1:]
    # Ray unpacks equal packages into one folder, which several jobs then share.
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(shutil.copytree(Path.cwd(), Path(folder) / "project", ignore=IGNORED))
        try:
            run(os.environ.get("FLOWVAE_STORAGE", ""), name, targets)
        except InputError as error:
            print(f"job: {error}", file=sys.stderr)
            return 1
        finally:
            os.chdir("/")
    return 0


def run(storage: str, name: str, targets: list[str]) -> None:
    """Raises InputError if the storage cannot be read, or a stage fails."""
    results = Storage.of(storage, f"jobs/{name}")
    fetch_arrays(paths.PREPARED, storage, results.read("data").decode())
    metadata = read_metadata(paths.PREPARED)
    write_json(
        paths.SOURCE, {"source": metadata.source, "fingerprint": metadata.fingerprint}
    )  # as the stage fetch does
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "config", "--local", "core.no_scm", "true"], check=True)
    with Repo() as repo:
        for stage in DATA_STAGES:  # the data are those that came with the job
            repo.freeze(stage)
    if code := subprocess.run([*dvc, "repro", *targets], check=False).returncode:
        raise InputError(f"dvc repro {' '.join(targets)} failed with exit code {code}; the log above says why")
    manifest = {}
    with Repo() as repo:
        stages = {stage.addressing: stage for target in targets for stage in repo.stage.collect(target, with_deps=True)}
        for address, stage in sorted(stages.items()):
            if address not in DATA_STAGES:
                manifest[address] = {path: sha256(Path(path)) for out in stage.outs for path in files_of(out.def_path)}
    for files in manifest.values():
        for path in files:
            results.write(path, Path(path).read_bytes())
    results.write(MANIFEST, json.dumps(manifest).encode())  # last: with it the results are complete
    print(
        f"job: {sum(map(len, manifest.values()))} files of {len(manifest)} stages are in {results.folder}", flush=True
    )


def files_of(path: str) -> Iterator[str]:
    """The files of an output, relative to the project: itself, or all that is in the folder."""
    if Path(path).is_dir():
        yield from sorted(file.as_posix() for file in Path(path).rglob("*") if file.is_file())
    else:
        yield path


if __name__ == "__main__":
    sys.exit(main())
