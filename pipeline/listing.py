"""The files that a project consists of, copies of them, and work in another folder."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from flowvae.errors import InputError

NEVER_PART = ("/.git", "/.dvc/tmp/", "/.dvc/cache/", "/.dvc/config.local")


def project_files(project: Path) -> list[str]:
    """Its files, in the form of git: those that git tracks or does not ignore; without git, those not in .gitignore."""
    names = git_files(project, "--cached", "--others", "--exclude-standard")
    if names is None or "dvc.yaml" not in names:  # git ignores the whole project, which lies in another repository
        names = list(unignored_files(project))
    return [name for name in dict.fromkeys(names) if is_file(project / name)]


def is_file(path: Path) -> bool:
    """Whether this is a file or a link, to whatever."""
    return path.is_symlink() or path.is_file()


def unignored_files(project: Path) -> Iterator[str]:
    """The files in a folder that its .gitignore does not name."""
    ignore = project / ".gitignore"
    lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
    ignored = GitIgnoreSpec.from_lines([*lines, *NEVER_PART])
    for folder, folders, files in os.walk(project):
        prefix = Path(folder).relative_to(project).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        links = [name for name in folders if Path(folder, name).is_symlink()]
        folders[:] = [name for name in folders if name not in links and not ignored.match_file(f"{prefix}{name}/")]
        yield from (f"{prefix}{name}" for name in (*files, *links) if not ignored.match_file(f"{prefix}{name}"))


def copy_files(project: Path, names: Iterable[str], target: Path, *, follow_links: bool) -> None:
    """Copy files of the project into another folder, with their times, unless they are there already.

    Args:
        project: its folder.
        names: of the files, relative to it.
        target: the other folder.
        follow_links: whether a link becomes a copy of its file.
    """
    for name in names:
        source, copy = project / name, target / name
        if not is_same(source, copy):
            remove(copy)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=follow_links)


def is_same(source: Path, copy: Path) -> bool:
    """Whether a file has the size and the time of another one, which `copy_files` has made of it."""
    if source.is_symlink() or not is_file(copy) or copy.is_symlink():
        return False
    first, second = source.stat(), copy.stat()
    return (first.st_size, first.st_mtime_ns, first.st_mode) == (second.st_size, second.st_mtime_ns, second.st_mode)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_within(name: str, folders: Iterable[str]) -> bool:
    """Whether a file is one of these, or is in one of them."""
    path = PurePosixPath(name)
    return not set(folders).isdisjoint(map(str, (path, *path.parents)))


def git_files(project: Path, *arguments: str) -> list[str] | None:
    """What `git ls-files` lists; None where the project is not in a git repository, or there is no git.

    Raises:
        InputError: git fails for another reason.
    """
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(project), "ls-files", "-z", *arguments]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode and "not a git repository" in listed.stderr:
        return None
    if listed.returncode:
        raise InputError(f"{project}: git ls-files failed ({' '.join(listed.stderr.split())})")
    return list(filter(None, listed.stdout.split("\0")))


def git(project: Path, *arguments: str) -> str:
    """The output of a git command in the project, without hooks.

    Raises:
        InputError: it fails, or there is no git.
    """
    command = ["git", "-C", str(project), "-c", f"core.hooksPath={os.devnull}", *arguments]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise InputError(f"{project}: there is no git on this machine") from None
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split())
        raise InputError(f"{project}: git {' '.join(arguments[:2])} failed ({reason})") from None
    return completed.stdout.strip()


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make this the working folder inside the block."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
