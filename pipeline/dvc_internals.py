"""What this project uses of DVC beyond its commands. No other module imports DVC.

DVC does not promise to keep any of this, so pyproject.toml pins it to a minor version, and test_dvc_internals.py and
test_status.py in tests/pipeline try all of it with the DVC that is installed.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import networkx
import psutil
from dvc.config import Config, merge
from dvc.exceptions import CollectCacheError, DvcException
from dvc.fs import LocalFileSystem, generic
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.rwlock import RWLOCK_FILE
from dvc.schema import COMPILED_LOCK_FILE_STAGE_SCHEMA
from dvc.stage import PipelineStage, Stage
from dvc.stage.cache import _can_hash, _get_cache_hash, _get_stage_hash
from dvc.stage.loader import StageLoader
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils.hydra import apply_overrides
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB

__all__ = [
    "COMPILED_LOCK_FILE_STAGE_SCHEMA",
    "Changes",
    "Config",
    "DvcException",
    "LocalFileSystem",
    "PipelineStage",
    "Plan",
    "Repo",
    "StageLoader",
    "apply_overrides",
    "build",
    "changes",
    "has_remote",
    "lock_repo",
    "merge",
    "open_repo",
    "outputs_of",
    "plan",
    "pull_run",
    "push_run",
    "stale",
    "to_single_stage_lockfile",
    "work_without_git",
    "writers",
]
LEGACY = "md5-dos2unix"  # the part of a remote in which DVC keeps the run cache


class Plan(NamedTuple):
    """The stages to bring up to date, in DVC's order.

    Attributes:
        dependencies: the stages that each stage depends on.
        outputs: of all stages.
        width: number of stages of dvc.yaml that could run in parallel; the same for all targets.
    """

    dependencies: dict[str, set[str]]
    outputs: list[Path]
    width: int


class Changes(NamedTuple):
    """What has changed since a stage ran.

    Attributes:
        dependencies, outputs: modified, deleted or the like, by path; of params, a mapping of their keys.
        others: in DVC's words.
    """

    dependencies: Mapping[str, str | Mapping[str, str]]
    outputs: Mapping[str, str]
    others: list[str]


def open_repo(project: Path | None = None) -> Repo:
    """A project, by default that in the working folder; it waits for other DVC processes to end."""
    return Repo(project and str(project), _wait_for_lock=True)


def work_without_git(project: Path) -> None:
    """Let DVC work in a project that is in no git repository, as `dvc config --local core.no_scm true` does."""
    with Config(str(project / ".dvc")).edit("local") as local:
        local.setdefault("core", {})["no_scm"] = True


def has_remote(repo: Repo) -> bool:
    """Whether the project has a default remote."""
    return bool(repo.config["core"].get("remote"))


def plan(repo: Repo, targets: Sequence[str]) -> Plan:
    """The targets and the stages that they depend on; without targets, all stages.

    Raises:
        DvcException: dvc.yaml is invalid, or does not contain a target.
    """
    with lock_repo(repo):
        graph = get_active_graph(repo.index.graph)
        wanted = [stage for target in targets for stage in repo.stage.collect(target)]
        order = plan_repro(graph, wanted or None)
        return Plan(
            dependencies={stage.addressing: {dep.addressing for dep in graph[stage]} for stage in order},
            outputs=[Path(out.fs_path) for stage in order for out in stage.outs],
            width=max(map(len, networkx.topological_generations(graph)), default=1),
        )


def stale(repo: Repo, names: Iterable[str]) -> set[str]:
    """The stages that DVC would run or fetch from its cache, among stages whose dependencies are up to date."""
    candidates = set(names)
    if not candidates:
        return set()
    with lock_repo(repo):
        stages = [stage for stage in repo.index.stages if stage.addressing in candidates]
        return {stage.addressing for stage in stages if is_stale(stage)}


def is_stale(stage: Stage) -> bool:
    """Whether DVC considers a stage stale, or another process locks its files, so that DVC has to check again."""
    try:
        return stage.changed()
    except LockError:
        return True


def changes(repo: Repo, names: Iterable[str]) -> dict[str, Changes]:
    """What has changed since each of these stages ran; stages without a change are left out.

    Dependencies are compared as they are now, so stages that depend on stale ones may be left out. That a stage always
    runs is no change, and neither is what a stage that runs now is writing.
    """
    candidates = set(names)
    with lock_repo(repo):
        stages = [stage for stage in repo.index.stages if stage.addressing in candidates]
        found = {stage.addressing: changes_of(stage) for stage in stages}
    return {name: some for name, some in found.items() if any(some)}


def changes_of(stage: Stage) -> Changes:
    """What has changed since a stage ran."""
    try:
        entries = stage.status().get(stage.addressing, [])
    except LockError:  # a stage that runs writes what this one reads
        entries = []
    files = {kind: paths for entry in entries if isinstance(entry, dict) for kind, paths in entry.items()}
    return Changes(
        files.get("changed deps", {}),
        files.get("changed outs", {}),
        [entry for entry in entries if isinstance(entry, str) and entry != "always changed"],
    )


def outputs_of(repo: Repo) -> dict[str, set[str]]:
    """The outputs of each stage, as `changes` names them."""
    return {stage.addressing: set(map(str, stage.outs)) for stage in repo.index.stages}


def writers(repo: Repo) -> dict[str, int]:
    """The process that writes the outputs of each stage that some process runs now."""
    try:
        locks = json.loads(Path(repo.tmp_dir, RWLOCK_FILE).read_bytes())["write"]
    except (OSError, ValueError, KeyError):  # nothing has run, or the file is being written
        return {}
    alive = {path: info["pid"] for path, info in locks.items() if psutil.pid_exists(info["pid"])}
    outs = ((stage.addressing, out.fs_path) for stage in repo.index.stages for out in stage.outs)
    return {name: alive[path] for name, path in outs if path in alive}


def push_run(repo: Repo, name: str) -> None:
    """Push what a stage has written to the default remote, and what it was written from, as a run in the run cache.

    DVC keeps no runs of stages that have outputs with `cache: false`, and pushes no such outputs. With both in the
    remote, DVC takes a run over where code, params and data are the same, instead of running the stage again.

    Raises:
        DvcException: the outputs have changed since the stage ran, or they cannot be pushed.
    """
    stage = read_stage(repo, name)
    for out in stage.outs:
        if not out.use_cache:
            out.use_cache = True  # of this object, which is not written to dvc.yaml
            out.commit(relink=False)
    if not stage.outs_cached():
        raise DvcException(f"{name}: its outputs are not those of dvc.lock; run dvc repro {name}")
    if failed := repo.cloud.push(objects_of(stage)).failed:
        raise DvcException(f"{name}: {len(failed)} files cannot be pushed")
    if _can_hash(stage):
        repo.stage_cache.save(stage)
        copy_runs(_get_stage_hash(stage), repo.cache.legacy, repo.cloud.get_remote_odb(hash_name=LEGACY))


def pull_run(repo: Repo, name: str) -> bool:
    """Pull the outputs of an earlier run of a stage with the same code, params and data into DVC's cache.

    Returns:
        Whether the default remote has such a run; `dvc repro` then takes it over.

    Raises:
        DvcException: the remote has a run that belongs to something else, or its files cannot be pulled.
    """
    stage = read_stage(repo, name)
    stage.save_deps()
    if not _can_hash(stage):  # it always runs, or has no dependencies
        return False
    key = _get_stage_hash(stage)
    copy_runs(key, repo.cloud.get_remote_odb(hash_name=LEGACY), repo.cache.legacy)
    check_runs(repo, key)
    run = repo.stage_cache._load(stage)
    if not run:
        return False
    StageLoader.fill_from_lock(stage, run)
    for out in stage.outs:
        out.use_cache = True
    try:
        objects = objects_of(stage)
    except CollectCacheError:  # the remote no longer has the list of a folder
        return False
    if failed := repo.cloud.pull(objects).failed:
        raise DvcException(f"{name}: {len(failed)} files cannot be pulled")
    return bool(stage.outs_cached())


def read_stage(repo: Repo, name: str) -> Stage:
    """A stage with its entry in dvc.lock, which no other process writes meanwhile."""
    with lock_repo(repo):
        (stage,) = repo.stage.collect(name)
        return stage


def objects_of(stage: Stage) -> set:
    """The objects of all outputs of a stage in DVC's cache."""
    return set().union(*stage.get_used_objs().values())


def copy_runs(key: str, source: HashFileDB, target: HashFileDB) -> None:
    """Copy the runs of a stage from one run cache to another that lacks them. DVC itself copies only all runs."""
    folder = source.fs.join(source.path, "runs", key[:2], key)
    for path in source.fs.find(folder) if source.fs.exists(folder) else ():
        copy = target.fs.join(target.path, "runs", key[:2], key, source.fs.name(path))
        if not target.fs.exists(copy):
            generic.copy(source.fs, path, target.fs, copy)


def check_runs(repo: Repo, key: str) -> None:
    """Check that the runs of a stage that were pulled are of this stage: DVC writes whatever files a run names.

    Raises:
        DvcException: one is not; all of them were removed.
    """
    folder = Path(repo.stage_cache.cache_dir, key[:2], key)
    for path in folder.iterdir() if folder.is_dir() else ():
        run = repo.stage_cache._load_cache(key, path.name)
        if run and _get_cache_hash(deepcopy(run), key=True) != key:
            shutil.rmtree(folder)  # DVC fails if it is empty
            raise DvcException(f"runs/{key[:2]}/{key}/{path.name}: belongs to another stage; remove it from the remote")
