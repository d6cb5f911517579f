"""The results of a job in storage: their manifest, and how they get into the working tree and are committed to DVC."""

import hashlib
import tempfile
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from pydantic import ValidationError

from flowvae.config import Config
from flowvae.errors import InputError
from flowvae.files import sha256
from pipeline.distributed.storage import Storage
from pipeline.submit.outputs import Outputs, check_files, outputs_of
from pipeline.submit.request import Request

MANIFEST = "manifest.json"
FILES = "files"  # the folder of the results, beside the manifest


class Manifest(Config):
    """What a job stored.

    Attributes:
        request: the digest of the request that the job answered.
        files: SHA-256 of each file, by stage and path.
    """

    request: str
    files: dict[str, dict[str, str]]


def store_results(project: Path, results: Storage, request: Request, outputs: Outputs) -> Manifest:
    """Store all files of the outputs, and then their manifest, which marks the results as complete."""
    files = {
        stage: {name: sha256(project / name) for output in names for name in files_of(project, output)}
        for stage, names in outputs.items()
    }
    for name in (name for names in files.values() for name in names):
        results.write(f"{FILES}/{name}", (project / name).read_bytes())
    manifest = Manifest(request=request.digest, files=files)
    results.write(MANIFEST, manifest.model_dump_json().encode())
    return manifest


def files_of(project: Path, output: str) -> list[str]:
    """The files of an output, relative to the project: the output itself, or all files in its folder."""
    path = project / output
    found = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [file.relative_to(project).as_posix() for file in found]


def copy_results_back(project: Path, results: Storage, request: Request) -> list[str]:
    """Fetch and check all files of a job, then move them to their places in the project and commit them to DVC.

    Args:
        project: its folder.
        results: of the job.
        request: the one whose results are expected.

    Returns:
        The stages of the job.

    Raises:
        InputError: the job stored no results of this request, a file is missing or damaged, or it is no output of a
            stage that was asked for; nothing was changed. Or DVC refuses to commit.
        DvcException: dvc.yaml has no such stage.
    """
    files = read_manifest(results, request).files
    with Repo(str(project)) as repo:
        allowed = outputs_of(repo, request.stages)
        check_files(files, allowed, project, Path(repo.cache.local.path))
    if missing := allowed.keys() - files.keys():
        raise InputError(f"{results.folder}/{MANIFEST}: has no results of {', '.join(sorted(missing))}; submit again")
    move_files(project, results, {name: checksum for names in files.values() for name, checksum in names.items()})
    try:
        with Repo(str(project)) as repo:
            for stage in files:
                repo.commit(stage, force=True)
    except DvcException as error:
        raise InputError(f"dvc commit: {error}; the files are copied; fix the cause, then run dvc commit") from error
    return list(files)


def read_manifest(results: Storage, request: Request) -> Manifest:
    """The manifest of the results of a request.

    Raises:
        InputError: it is missing or damaged, or belongs to another request.
    """
    place = f"{results.folder}/{MANIFEST}"
    content = results.read(MANIFEST)
    if content is None:
        raise InputError(f"{place}: missing, because the job stored no results of its last request; run the job again")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"{place}: damaged, not a manifest; nothing was written; run the job again") from error
    if manifest.request != request.digest:
        raise InputError(f"{place}: belongs to another request; nothing was written; run the job again")
    return manifest


def move_files(project: Path, results: Storage, checksums: dict[str, str]) -> None:
    """Fetch files from storage, check all of them, and then move them into the project.

    Raises:
        InputError: a file is missing or damaged; nothing was changed.
    """
    with tempfile.TemporaryDirectory(dir=project, prefix=".results-") as folder:
        for name, expected in checksums.items():
            content = results.read(f"{FILES}/{name}")
            if content is None or hashlib.sha256(content).hexdigest() != expected:
                raise InputError(
                    f"{results.folder}/{FILES}/{name}: missing or damaged; nothing was changed; submit again"
                )
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        for name in checksums:
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).replace(project / name)
