"""What is sent with a job, and what may enter an image."""

import subprocess
from pathlib import Path

import pathspec
import pytest

from flowvae.errors import InputError
from pipeline.submit.project import copy_tracked, source_files
from pipeline.submit.request import source_hash

ROOT = Path(__file__).parents[3]
SECRETS = (".env", "s3.env", "images/a.png", ".dvc/config.local", "pipeline/.env", "notes.txt")


def git(folder, *arguments):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@e.org", *arguments], cwd=folder, check=True)


@pytest.fixture
def clone(tmp_path):
    """A git repository with code, tests, and files that git does not track or ignores."""
    folder = tmp_path / "clone"
    tracked = ("params.yaml", "dvc.yaml", "flowvae/a.py", "pipeline/b.py", "tests/t.py", ".dvc/config", ".dvcignore")
    for name in (*tracked, *SECRETS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    git(folder, "init", "--quiet")
    (folder / ".gitignore").write_text("/ignored\npipeline/.env\n")
    git(folder, "add", ".gitignore", *tracked)
    git(folder, "commit", "--quiet", "-m", "x")
    (folder / "dvc.lock").write_text("new")
    return folder


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_job_gets_what_git_tracks(clone, tmp_path):
    (clone / "params.yaml").write_text("edited")
    copy = copy_tracked(clone, tmp_path / "copy")
    expected = {"params.yaml", "dvc.yaml", "dvc.lock", "flowvae/a.py", "pipeline/b.py", ".dvc/config"}
    assert names(copy) == expected | {".dvcignore", ".gitignore"}
    assert (copy / "params.yaml").read_text() == "edited"
    assert source_files(copy) == source_files(clone)
    assert source_hash(copy) == source_hash(clone)


def test_secrets_are_not_sent_even_if_git_tracks_them(clone, tmp_path):
    git(clone, "add", "--force", *SECRETS)
    copy = copy_tracked(clone, tmp_path / "copy")
    assert names(copy) & set(SECRETS) == {"notes.txt"}
    assert source_hash(copy) == source_hash(clone)


def test_code_that_git_does_not_track_is_one_line(clone, tmp_path):
    (clone / "flowvae/new.py").write_text("")
    with pytest.raises(InputError, match=r"flowvae/new.py: git does not track it"):
        copy_tracked(clone, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_links_out_of_the_project_are_not_sent(clone, tmp_path):
    (tmp_path / "key").write_text("secret")
    (clone / "pipeline/link.py").symlink_to(tmp_path / "key")
    git(clone, "add", ".")
    with pytest.raises(InputError, match=r"pipeline/link.py: a link out of"):
        copy_tracked(clone, tmp_path / "copy")


def test_without_git_nothing_is_sent(tmp_path):
    with pytest.raises(InputError, match="not a git repository"):
        copy_tracked(tmp_path, tmp_path / "copy")


IGNORE_FILES = (".dockerignore", ".containerignore")


@pytest.mark.parametrize("name", IGNORE_FILES)
def test_an_image_gets_what_is_named_and_no_secrets(name):
    """By docker-py's reading of the rules; there is no Docker here to build with."""
    from docker.utils.build import PatternMatcher

    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    matcher = PatternMatcher(lines)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    sent = {file for file in tracked if not matcher.matches(file)}
    for file in (*SECRETS, ".git/config", ".venv/bin/python", "data/raw/x", "models/a", ".dvc/cache/x", "x.pem"):
        assert matcher.matches(file), file
    assert matcher.matches("pipeline/__pycache__/a.pyc") and matcher.matches("pipeline/s3.env")
    assert {file for file in tracked if file.startswith(("flowvae/", "pipeline/", "reports/studies/"))} <= sent
    sent.discard(".dockerignore")  # Docker itself reads it
    rest = {file for file in sent if not file.startswith(("flowvae/", "pipeline/", "reports/studies/"))}
    assert rest == {
        "pyproject.toml", "constraints.txt", "README.md", "params.yaml", "dvc.yaml", "dvc.lock", ".dvcignore",
        ".dvc/config",
    }  # fmt: skip
    copied = [word for line in (ROOT / "infra/Containerfile").read_text().splitlines()
              if line.startswith("COPY") for word in line.split()[2:-1]]  # fmt: skip
    assert "." not in copied
    assert all(file in copied or any(file.startswith(f"{word}/") for word in copied) for file in sent)
    assert pathspec.GitIgnoreSpec.from_lines(lines).match_file(".git/config")


def test_docker_and_podman_read_the_same_rules():
    first, second = ((ROOT / name).read_text().split("\n", 1)[1] for name in IGNORE_FILES)
    assert first == second
