"""Working copies of the project: a run in one of them changes no file of the user's."""

import os
from collections.abc import Collection, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flowvae.errors import InputError
from pipeline.dvc_internals import Config, merge
from pipeline.files import write_text
from pipeline.listing import copy_files, git, git_files, is_within, project_files, remove
from pipeline.paths import CHECKPOINTS, DOWNLOADS, PARAMS, PREPARED, TIMINGS

LOCK = Path("dvc.lock")
BASE = Path(".dvc/tmp/base.lock")  # in a copy: the dvc.lock of the project when the copy was last updated
Entries = Mapping[str, Any]  # of a dvc.lock, by stage


def last_commit(project: Path) -> str | None:
    """The last commit, if the project is the top of a git repository that DVC uses, and has one."""
    no_scm = Config(os.fspath(project / ".dvc"))["core"].get("no_scm", False)
    if no_scm or not (project / ".git").exists() or not git_files(project, "--cached", "--", "dvc.yaml"):
        return None
    try:
        return git(project, "rev-parse", "--verify", "HEAD")
    except InputError:  # nothing is committed yet
        return None


def add_worktree(project: Path, folder: Path) -> None:
    """Check out the last commit in a new folder, as a worktree of the project's git repository.

    Raises:
        InputError: the project is not in a git repository, or it has no commit.
    """
    git(project, "worktree", "prune")  # those whose folders were removed
    git(project, "worktree", "add", "--quiet", "--detach", "--force", str(folder))


def is_attached(project: Path, folder: Path) -> bool:
    """Whether a folder is a worktree of the project's repository, which learns where it is now.

    Git notes absolute paths, and the project may have been moved, or copied with the folder in it.
    """
    pointer = folder / ".git"
    if not pointer.is_file():
        return False
    repository = (project / git(project, "rev-parse", "--git-common-dir")).resolve()
    entry = repository / "worktrees" / Path(pointer.read_text(encoding="utf-8").strip()).name
    if not entry.is_dir():
        return False
    write_text(pointer, f"gitdir: {entry}\n")
    write_text(entry / "gitdir", f"{pointer}\n")
    return True


def update_copy(project: Path, folder: Path, params: str, data: Path) -> None:
    """Bring a copy of the project up to date with it, or make the copy.

    The copy gets the files of the project as they are, uncommitted edits included. A stage that has run in the copy
    keeps its results there; of all others it gets those of the project. It shares DVC's cache, raw data and checkpoints
    with the project.

    Args:
        project: its folder.
        folder: of the copy. It is a worktree if the project is a git repository, so experiments are saved in that.
        params: the text of params.yaml in the copy.
        data: the folder of the user's own images, as in params.yaml.

    Raises:
        InputError: `data` cannot be shared with the copy.
    """
    commit = last_commit(project)
    usable = is_attached(project, folder) if commit else not (folder / ".git").exists()
    if not (usable and (folder / BASE).is_file()):
        remove(folder)  # it was never completed, so no stage has run there; or it belongs to another repository
        folder.mkdir(parents=True)
        if commit:
            add_worktree(project, folder)
    if commit:
        git(folder, "reset", "--quiet", commit)  # changes no file
    shared = [data] if is_untracked_folder(project, data) else []
    update_files(project, folder, {path.as_posix() for path in shared})
    if not (folder / PARAMS).is_file() or (folder / PARAMS).read_text(encoding="utf-8") != params:
        write_text(folder / PARAMS, params)
    for path in (DOWNLOADS, CHECKPOINTS):
        (project / path).mkdir(parents=True, exist_ok=True)
    for path in (DOWNLOADS, CHECKPOINTS, *shared):
        link(project, folder, path)
    write_config(project, folder)


def is_untracked_folder(project: Path, data: Path) -> bool:
    """Whether this is a relative path of a folder that exists, and of which git tracks nothing.

    Raises:
        InputError: stages write into it.
    """
    if data.is_absolute() or not (project / data).is_dir():
        return False
    if (project / PREPARED).is_relative_to(os.path.normpath(project / data)):
        raise InputError(f"data.folder.path: {data}: with --set-param, expected a folder with nothing but images")
    inside = (project / data).resolve().is_relative_to(project)
    return not (inside and git_files(project, "--cached", "--", str(data)))


def update_files(project: Path, folder: Path, left_out: Collection[str]) -> None:
    """Copy all files of the project, but for those that stages in the copy have written, and dvc.lock accordingly."""
    base, here, there = (read_lock(path) for path in (folder / BASE, folder / LOCK, project / LOCK))
    kept = {stage: entry for stage, entry in here.items() if entry != base.get(stage)}
    replaced = [there[stage] for stage in kept if stage in there]
    outs = {out["path"] for entry in (*kept.values(), *replaced) for out in entry.get("outs", ())}
    fixed = {*outs, *left_out, LOCK.as_posix(), PARAMS.as_posix()}
    names = [name for name in project_files(project) if not is_within(name, fixed)]
    for name in set(project_files(folder)).difference(names):
        if not is_within(name, fixed):
            remove(folder / name)
    copy_files(project, names, folder, follow_links=False)
    timings = (path.relative_to(project).as_posix() for path in (project / TIMINGS).rglob("*") if path.is_file())
    copy_files(project, [name for name in timings if not (folder / name).exists()], folder, follow_links=False)
    text = (project / LOCK).read_text(encoding="utf-8") if (project / LOCK).is_file() else ""
    if kept and {**there, **kept} != here:
        write_lock(folder / LOCK, project / LOCK, kept)
    elif not kept:
        remove(folder / LOCK)
        if text:
            write_text(folder / LOCK, text)
    write_text(folder / BASE, text)


def read_lock(path: Path) -> Entries:
    """The stages of a dvc.lock; none if it does not exist."""
    content = YAML(typ="safe").load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return (content or {}).get("stages", {})


def write_lock(path: Path, other: Path, kept: Collection[str]) -> None:
    """Write a dvc.lock with the stages of another one, but for some, which are kept; in the style of DVC."""
    yaml, text = YAML(), StringIO()
    content, others = (yaml.load(file.read_text(encoding="utf-8")) if file.is_file() else {} for file in (path, other))
    content["stages"] = {**others.get("stages", {}), **{stage: content["stages"][stage] for stage in kept}}
    yaml.dump(content, text)
    write_text(path, text.getvalue())


def link(project: Path, folder: Path, path: Path) -> None:
    """Let a relative path lead to the same place from the copy as from the project.

    Raises:
        InputError: a link for it would lie outside of the folder for copies.
    """
    place, target = (Path(os.path.normpath(parent / path)) for parent in (folder, project))
    if not place.is_relative_to(folder.parent):
        raise InputError(f"data.folder.path: {path}: with --set-param, expected an absolute path or one in {project}")
    if not (place.is_symlink() and place.readlink() == target):
        remove(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target, target_is_directory=True)


def write_config(project: Path, folder: Path) -> None:
    """Write a local configuration of DVC for the copy: that of the project, with its cache and its relative paths."""
    given = Config(os.fspath(project / ".dvc"))
    path = folder / ".dvc/config.local"
    path.touch(mode=0o600)  # it may contain credentials
    with Config(os.fspath(folder / ".dvc"), validate=False).edit("local") as local:
        local.clear()
        for level in Config.REPO_LEVELS:
            merge(local, given.load_one(level))
        local["cache"]["dir"] = given["cache"].get("dir") or str(project / ".dvc/cache")
        if not (folder / ".git").exists():
            local["core"]["no_scm"] = True  # the repository of the project, if there is one, ignores the copy
