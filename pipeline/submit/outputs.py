"""Which files a job may write: outputs that dvc.yaml declares for the stages that were asked for, and nothing else."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import networkx

from flowvae.errors import InputError
from pipeline.dvc_internals import Repo

DATA_STAGES = ("fetch", "prepare")  # which no job runs
Outputs = Mapping[str, Sequence[str]]  # of each stage, relative to the project
RESERVED = (".git", ".dvc")  # no part of a path is one of these, in any case of letters


def outputs_of(repo: Repo, targets: Sequence[str]) -> dict[str, list[str]]:
    """The outputs of the targets and of the stages that they depend on, without the data stages.

    Returns:
        By stage, each after those that it depends on.

    Raises:
        DvcException: there is no such stage.
    """
    wanted = {stage for target in targets for stage in repo.stage.collect(target, with_deps=True)}
    return {
        stage.addressing: [str(out.def_path) for out in stage.outs]
        for stage in networkx.dfs_postorder_nodes(repo.index.graph)
        if stage in wanted and stage.addressing not in DATA_STAGES
    }


def check_files(files: Mapping[str, Mapping[str, str]], allowed: Outputs, project: Path, cache: Path) -> None:
    """Check that a manifest names only files that its job may write, before anything is written.

    Args:
        files: of the manifest, by stage.
        allowed: the outputs of the stages that were asked for.
        project: its folder.
        cache: of DVC; a file may be a link into it, which is replaced.

    Raises:
        InputError: one line, which names the first file that is refused.
    """
    folders = {str(parent) for names in files.values() for name in names for parent in PurePosixPath(name).parents}
    for stage, names in files.items():
        for name in names:
            reason = refusal(name, allowed.get(stage), project, cache)
            if reason := reason or ("a file and a folder at once" if name in folders else None):
                raise InputError(f"manifest: {stage}: {name!r}: {reason}; nothing was written")


def refusal(name: str, outputs: Sequence[str] | None, project: Path, cache: Path) -> str | None:
    """Why a file must not be written; None if it may be."""
    path = PurePosixPath(name)
    if path.is_absolute() or os.path.isabs(name):
        return "an absolute path"
    if not name or name != path.as_posix() or ".." in path.parts or not name.isprintable() or "\\" in name:
        return "not a plain path inside the project"
    if any(part.casefold() in RESERVED for part in path.parts):
        return "inside a folder of git or DVC"
    if outputs is None:
        return "the stage is not among those that were asked for"
    if not any(path.is_relative_to(output) for output in outputs):
        return "not an output of the stage in dvc.yaml"
    return link_refusal(project, path, cache)


def link_refusal(project: Path, path: PurePosixPath, cache: Path) -> str | None:
    """Why a file must not be written because of what is on its way; None if it may be."""
    for place in [project / parent for parent in reversed(path.parents)][1:]:
        if place.is_symlink():
            return f"{place.relative_to(project)} is a symbolic link"
        if place.exists() and not place.is_dir():
            return f"{place.relative_to(project)} is a file, not a folder"
    place = project / path
    if place.is_symlink() and not place.resolve().is_relative_to(cache.resolve()):
        return "a symbolic link out of DVC's cache"
    return "a folder, not a file" if place.is_dir() else None
