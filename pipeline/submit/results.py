"""Copy the results of a job into the working tree, and commit them to DVC."""

import hashlib
import json
import tempfile
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from flowvae.errors import InputError
from pipeline.distributed.storage import Storage

MANIFEST = "manifest.json"


def copy_results_back(project: Path, results: Storage) -> list[str]:
    """Fetch and check all files of a job, then move them to their places in the project and commit them to DVC.

    Args:
        project: its folder.
        results: of the job.

    Returns:
        The stages of the job.

    Raises:
        InputError: a file is missing or damaged, and nothing was changed; or DVC refuses to commit.
    """
    content = results.read(MANIFEST)
    if content is None:
        raise InputError(f"{results.folder}/{MANIFEST}: missing, because the job stored no results; submit it again")
    manifest: dict[str, dict[str, str]] = json.loads(content)
    with tempfile.TemporaryDirectory(dir=project, prefix=".results-") as folder:
        for path, expected in (item for files in manifest.values() for item in files.items()):
            content = results.read(path)
            if content is None or hashlib.sha256(content).hexdigest() != expected:
                raise InputError(f"{results.folder}/{path}: missing or damaged; nothing was changed; submit again")
            target = Path(folder) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        for path in (path for files in manifest.values() for path in files):
            (project / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).replace(project / path)
    try:
        with Repo(str(project)) as repo:
            for stage in manifest:
                repo.commit(stage, force=True)
    except DvcException as error:
        raise InputError(f"dvc commit: {error}; the files are copied; fix the cause, then run dvc commit") from error
    return list(manifest)
