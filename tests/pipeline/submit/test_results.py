"""Results from a bucket that somebody else can write to: a real DVC project and a real folder as storage."""

import hashlib
import json
import os
import subprocess
import sys

import pytest

from flowvae.errors import InputError
from pipeline.distributed.storage import Storage
from pipeline.submit.request import Request
from pipeline.submit.results import copy_results_back

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in a package that DVC uses
REQUEST = Request(stages=["fit"], data="d", sources="s")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A DVC project with a requested stage, one that it needs, and one that nobody asked for."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)
    (folder / "dvc.yaml").write_text(
        "stages:\n  before: {cmd: 'true', outs: [before.txt]}\n"
        "  fit: {cmd: 'true', deps: [before.txt], outs: [models/a], metrics: [m.json: {cache: false}]}\n"
        "  other: {cmd: 'true', outs: [other.txt]}\n"
    )
    (folder / "pipeline").mkdir()
    return folder


@pytest.fixture
def store(tmp_path):
    """Put a manifest and its files, all with correct checksums, into storage. Returns: the results."""

    def put(extra=None, stage="fit", request=REQUEST.digest):
        good = {"before": ["before.txt"], "fit": ["models/a/weights", "m.json"]}
        files = {name: dict.fromkeys(names, hashlib.sha256(b"new").hexdigest()) for name, names in good.items()}
        if extra is not None:
            files.setdefault(stage, {})[extra] = hashlib.sha256(b"new").hexdigest()
        results = REQUEST.results(str(tmp_path / "storage"), "night")
        for name in (name for names in files.values() for name in names if name):
            target = os.path.normpath(os.path.join(results.folder, "files", name))
            if target.startswith(str(tmp_path)) and not os.path.isdir(target):
                results.write(os.path.relpath(target, results.folder), b"new")
        results.write("manifest.json", json.dumps({"request": request, "files": files}).encode())
        return results

    return put


def everything(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*") if ".dvc" not in path.parts}


def test_declared_outputs_are_written_and_committed(project, store):
    assert copy_results_back(project, store(), REQUEST) == ["before", "fit"]
    assert (project / "models/a/weights").read_bytes() == b"new"
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "fit", "--json"], cwd=project, capture_output=True, text=True
    )
    assert json.loads(status.stdout) == {}


@pytest.mark.parametrize(
    ("name", "stage", "reason"),
    [
        ("../outside.txt", "fit", "not a plain path"),
        ("models/a/../../dvc.yaml", "fit", "not a plain path"),
        ("models/a//x", "fit", "not a plain path"),
        ("./m.json", "fit", "not a plain path"),
        ("models/a/x\ny", "fit", "not a plain path"),
        ("", "fit", "not a plain path"),
        ("/outside.txt", "fit", "an absolute path"),
        (".git/hooks/post-checkout", "fit", "inside a folder of git"),
        ("models/a/.GIT/config", "fit", "inside a folder of git"),
        ("pipeline/evil.py", "fit", "not an output of the stage"),
        ("models/ab", "fit", "not an output of the stage"),
        ("models", "fit", "not an output of the stage"),
        ("models/a", "fit", "a file and a folder at once"),
        ("before.txt", "fit", "not an output of the stage"),
        ("other.txt", "other", "not among those that were asked for"),
        ("x", "unknown", "not among those that were asked for"),
    ],
)
def test_anything_else_is_refused_and_nothing_is_written(project, store, name, stage, reason):
    (project / "before.txt").write_text("old")
    results, before = store(name, stage), everything(project.parent)
    with pytest.raises(InputError, match=reason) as caught:
        copy_results_back(project, results, REQUEST)
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)
    assert everything(project.parent) == before


def test_files_and_folders_that_are_in_the_way_stay(project, store):
    (project / "models").write_text("a file")
    with pytest.raises(InputError, match="models is a file, not a folder"):
        copy_results_back(project, store(), REQUEST)
    (project / "models").unlink()
    (project / "m.json").mkdir()
    with pytest.raises(InputError, match="a folder, not a file"):
        copy_results_back(project, store(), REQUEST)
    assert not (project / "models").exists() and not (project / "before.txt").exists()


@pytest.mark.parametrize("link", ["models", "models/a", "models/a/weights", "m.json"])
def test_links_are_not_followed(project, store, tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    (project / link).parent.mkdir(parents=True, exist_ok=True)
    (project / link).symlink_to(tmp_path / "elsewhere")
    results, before = store(), everything(tmp_path)
    with pytest.raises(InputError, match="symbolic link"):
        copy_results_back(project, results, REQUEST)
    assert everything(tmp_path) == before


def test_links_into_the_cache_of_dvc_are_replaced(project, store):
    (project / "models/a").mkdir(parents=True)
    cached = project / ".dvc/cache/files/md5/00/11"
    cached.parent.mkdir(parents=True)
    cached.write_text("old")
    (project / "models/a/weights").symlink_to(cached)
    copy_results_back(project, store(), REQUEST)
    assert cached.read_text() == "old" and not (project / "models/a/weights").is_symlink()


def test_results_of_an_earlier_request_under_the_same_name_are_not_taken(project, store, tmp_path):
    later = Request(stages=["fit"], data="d", sources="other params")
    store()
    with pytest.raises(InputError, match="stored no results of its last request"):
        copy_results_back(project, later.results(str(tmp_path / "storage"), "night"), later)
    with pytest.raises(InputError, match="belongs to another request"):
        copy_results_back(project, store(request=later.digest), REQUEST)
    assert not (project / "models").exists()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"request": "x", "files": {"fit": ["a"]}}'])
def test_a_damaged_manifest_is_one_line(project, tmp_path, content):
    results = REQUEST.results(str(tmp_path / "storage"), "night")
    assert isinstance(results, Storage)
    results.write("manifest.json", content)
    with pytest.raises(InputError, match="damaged, not a manifest"):
        copy_results_back(project, results, REQUEST)
