"""What a submitted job runs on the cluster: python -m pipeline.submit.job NAME [STAGE ...].

It runs in a copy of the project that was sent with the job. It fetches the prepared data from FLOWVAE_STORAGE,
reproduces the stages with DVC, and stores their outputs in FLOWVAE_STORAGE under the job's name, with a manifest.
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
from pipeline.submit.results import MANIFEST

DATA_STAGES = ("fetch", "prepare")
DVC = [sys.executable, "-m", "dvc"]
IGNORED = shutil.ignore_patterns("__pycache__", ".venv")


def main() -> int:
    """Exit code 0, or 1 after one line per problem on standard error."""
    name, *stages = sys.argv[1:]
    # Ray unpacks equal packages into the same folder, so several jobs would share it.
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(shutil.copytree(Path.cwd(), Path(folder) / "project", ignore=IGNORED))
        try:
            run(os.environ.get("FLOWVAE_STORAGE", ""), name, stages)
        except InputError as error:
            for line in str(error).splitlines():
                print(f"job: {line}", file=sys.stderr)
            return 1
        finally:
            os.chdir("/")
    return 0


def run(uri: str, name: str, stages: list[str]) -> None:
    """Run the job in the working folder.

    Args:
        uri: FLOWVAE_STORAGE.
        name: of the job.
        stages: to reproduce.

    Raises:
        InputError: the storage or the data in it cannot be read, or a stage failed.
    """
    results = Storage.of(uri, f"jobs/{name}")
    fetch_data(uri, results)
    if code := subprocess.run([*DVC, "repro", *stages], check=False).returncode:
        raise InputError(f"dvc repro {' '.join(stages)} failed with exit code {code}; the reason is in the log above")
    manifest = checksums(stages)
    for files in manifest.values():
        for path in files:
            results.write(path, Path(path).read_bytes())
    results.write(MANIFEST, json.dumps(manifest).encode())  # last: it marks the results as complete
    num_files = sum(map(len, manifest.values()))
    print(f"job: stored {num_files} files of {len(manifest)} stages in {results.folder}", flush=True)


def fetch_data(uri: str, results: Storage) -> None:
    """Fetch the prepared data of the job, and freeze the stages that would produce them.

    Raises:
        InputError: no data were put into storage for this job, or they cannot be read.
    """
    data = results.read("data")
    if data is None:
        raise InputError(f"{results.folder}/data: missing; run python -m pipeline.submit --prepare with this job first")
    fetch_arrays(paths.PREPARED, uri, data.decode())
    metadata = read_metadata(paths.PREPARED)
    source = {"source": metadata.source, "fingerprint": metadata.fingerprint}
    write_json(paths.SOURCE, source)  # as the stage `fetch` does
    subprocess.run([*DVC, "config", "--local", "core.no_scm", "true"], check=True)
    with Repo() as repo:
        for stage in DATA_STAGES:
            repo.freeze(stage)


def checksums(targets: list[str]) -> dict[str, dict[str, str]]:
    """SHA-256 of all files that belong to the targets and the stages that they depend on.

    Returns:
        {stage: {path: checksum}}, without the data stages.
    """
    with Repo() as repo:
        stages = {stage.addressing: stage for target in targets for stage in repo.stage.collect(target, with_deps=True)}
        return {
            address: {path: sha256(Path(path)) for out in stage.outs for path in files_of(out.def_path)}
            for address, stage in sorted(stages.items())
            if address not in DATA_STAGES
        }


def files_of(path: str) -> Iterator[str]:
    """The files of an output, relative to the project: the output itself, or all files in its folder."""
    if Path(path).is_dir():
        yield from sorted(file.as_posix() for file in Path(path).rglob("*") if file.is_file())
    else:
        yield path


if __name__ == "__main__":
    sys.exit(main())
