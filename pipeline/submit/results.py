"""The results of a job: its manifest in storage, and how they get into the working tree and are committed to DVC."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from flowvae.config import Config
from flowvae.errors import InputError
from pipeline.distributed.storage import Storage
from pipeline.dvc_internals import DvcException, Repo, lock_repo, open_repo
from pipeline.submit.entries import check_inputs, check_outputs, inputs_key, load, load_with, read_entry, write_entry
from pipeline.submit.outputs import Outputs, check_files, outputs_of
from pipeline.submit.request import Request
from pipeline.submit.store import Key, Result, Store

MANIFEST = "manifest.json"


class Manifest(Config):
    """What a job has done so far.

    Attributes:
        request: the digest of the request that the job answers.
        stages: the key of the result of each stage that has ended successfully.
        problems: one line per stage that failed, or that was not run.
        ended: whether the job has ended.
    """

    request: str
    stages: dict[str, Key]
    problems: list[str]
    ended: bool


def copy_results_back(project: Path, uri: str, job: str, request: Request) -> tuple[list[str], list[str]]:
    """Fetch and check what the stages of a job wrote, move it into the project, and commit it to DVC.

    A stage is committed with the job's own entry of dvc.lock, if its command, params and dependencies are those of this
    folder.

    Args:
        project: its folder.
        uri: of the storage.
        job: its name.
        request: the one whose results are expected.

    Returns:
        The stages whose results were committed, and one line per problem: a stage that failed or has not ended, or
        whose results belong to something else than what is in this folder.

    Raises:
        InputError: the job stored no results of this request, a file is missing or damaged, or it is no output of a
            stage that was asked for; nothing was changed.
        DvcException: dvc.yaml has no such stage.
    """
    manifest, store = read_manifest(request.results(uri, job), request), Store(uri)
    taken, problems = [], list(manifest.problems)
    with open_repo(project) as repo, lock_repo(repo):
        allowed = outputs_of(repo, request.stages)
        results = read_results(store, manifest, allowed)
        check_files({stage: result.files for stage, result in results.items()}, allowed, project, cache_of(repo))
        with tempfile.TemporaryDirectory(dir=project, prefix=".results-") as folder:
            for stage, result in results.items():
                store.fetch(stage, manifest.stages[stage], result.files, Path(folder))
                check_outputs(load_with(repo, stage, result.entry), Path(folder))
            for stage, result in results.items():
                try:
                    take(repo, stage, result, Path(folder))
                except InputError as error:
                    problems.append(str(error))
                else:
                    taken.append(stage)
    if not manifest.ended:
        problems += [f"{stage}: has not ended" for stage in allowed if stage not in results]
    return taken, problems


def share_results(project: Path, uri: str, stages: list[str]) -> None:
    """Store the results of those stages of a job that are up to date in the project, so that the job does not run them.

    Args:
        project: its folder.
        uri: of the storage.
        stages: of the job.
    """
    store = Store(uri)
    with open_repo(project) as repo, lock_repo(repo):
        for stage, outputs in outputs_of(repo, stages).items():
            if not load(repo, stage).changed() and store.get(stage, key := inputs_key(repo, stage)) is None:
                store.put(project, stage, key, read_entry(project, stage), outputs)


def read_results(store: Store, manifest: Manifest, allowed: Outputs) -> dict[str, Result]:
    """The results that a manifest names, by stage, in the order of `allowed`.

    Raises:
        InputError: a result is missing or damaged, or belongs to a stage that was not asked for.
    """
    if others := manifest.stages.keys() - allowed.keys():
        raise InputError(f"manifest: {others.pop()!r}: the stage is not among those that were asked for")
    results = {}
    for stage in (stage for stage in allowed if stage in manifest.stages):
        result = store.get(stage, manifest.stages[stage])
        if result is None:
            raise InputError(f"{stage}: its results are no longer in storage; nothing was changed; submit again")
        results[stage] = result
    return results


def take(repo: Repo, stage: str, result: Result, folder: Path) -> None:
    """Move fetched and checked files to their places, and commit them to DVC with the entry that came with them.

    Args:
        repo: of the project.
        stage: whose files they are.
        result: of the stage.
        folder: in which the files are, by their paths.

    Raises:
        InputError: the stage ran with another command, other params or dependencies than this project has now, and
            nothing was changed; or DVC refuses to commit.
    """
    loaded = load_with(repo, stage, result.entry)
    check_inputs(loaded)
    try:
        loaded.remove_outs()
        for name in result.files:
            target = Path(repo.root_dir) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(target)
        write_entry(loaded)
    except DvcException as error:
        raise InputError(f"{stage}: dvc commit: {error}; fix the cause, and collect again") from error


def cache_of(repo: Repo) -> Path:
    """The folder of DVC's cache."""
    return Path(repo.cache.local.path)


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


def write_manifest(
    results: Storage, request: Request, stages: Mapping[str, str], problems: list[str], ended: bool
) -> None:
    """Store what a job has done so far."""
    manifest = Manifest(request=request.digest, stages=dict(stages), problems=problems, ended=ended)
    results.write(MANIFEST, manifest.model_dump_json().encode())
