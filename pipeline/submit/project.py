"""Which files of the project a job gets: those that git tracks, without those that no job needs and without secrets."""

from pathlib import Path, PurePosixPath

from flowvae.errors import InputError
from pipeline.listing import copy_files, git_files

SOURCES = ("params.yaml", "dvc.yaml", "flowvae", "pipeline")  # what results depend on, apart from data
NEEDED = ("dvc.lock",)  # by a job, whether or not git tracks it
NOT_NEEDED = {"tests", "benchmarks", "docs", "infra", "data", "models", "scores", "logs", "checkpoints", "timings"}
NEVER_SENT = {".git", ".venv", "images"}  # at the top; `images` is a user's own folder of data
NEVER_SENT_NAMES = ("*.env", ".env.*", "config.local", ".netrc", "*.pem", "auth_token")


def copy_tracked(project: Path, target: Path) -> Path:
    """Copy what a job needs of the project: the files that git tracks, as they are in the working tree.

    Returns:
        The copy, `target`.

    Raises:
        InputError: the project is not a git repository, or it holds code that git does not track.
    """
    tracked = git_files(project, "--cached")
    if tracked is None:
        raise InputError(f"{project}: not a git repository; a job gets what git tracks: run git init and git add first")
    others = git_files(project, "--others", "--exclude-standard", "--", *SOURCES) or []
    if untracked := list(filter(is_source, others)):
        raise InputError(f"{untracked[0]}: git does not track it, so no job would get it; git add it, or move it away")
    names = [name for name in sorted({*tracked, *NEEDED}) if (project / name).is_file() and is_sent(name)]
    for name in names:
        check_inside(project, name)
    copy_files(project, names, target, follow_links=True)
    return target


def is_sent(name: str) -> bool:
    """Whether a file that git tracks is sent with a job."""
    path = PurePosixPath(name)
    return path.parts[0] not in NOT_NEEDED | NEVER_SENT and not any(map(path.match, NEVER_SENT_NAMES))


def check_inside(project: Path, name: str) -> None:
    """Raise InputError if a file is a link to something outside of the project."""
    if not (project / name).resolve().is_relative_to(project.resolve()):
        raise InputError(f"{name}: a link out of {project}, which is not sent with a job; replace it by a file")


def source_files(project: Path) -> list[str]:
    """The files that results depend on, sorted: those that git knows, or in a copy without git all of them."""
    names = git_files(project, "--cached", "--others", "--exclude-standard", "--", *SOURCES)
    if names is None:
        found = (path for source in SOURCES for path in (project / source, *(project / source).rglob("*")))
        names = [path.relative_to(project).as_posix() for path in found]
    return sorted(name for name in set(names) if is_source(name) and (project / name).is_file())


def is_source(name: str) -> bool:
    """Whether results may depend on a file of SOURCES: it is neither hidden nor a compiled module nor a secret."""
    parts = PurePosixPath(name).parts
    return "__pycache__" not in parts and not any(part.startswith(".") for part in parts) and is_sent(name)
