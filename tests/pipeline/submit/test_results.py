"""Results from a bucket that somebody else can write to: a real DVC project and a real folder as storage."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from flowvae.errors import InputError
from pipeline.submit.request import Request
from pipeline.submit.results import copy_results_back
from pipeline.submit.stages import run_stages

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in a package that DVC uses
REQUEST = Request(stages=["fit"], data="d", sources="s")
NEW = hashlib.sha256(b"new").hexdigest()
DVC_YAML = """
stages:
  before: {cmd: printf new > before.txt, params: [epochs], outs: [before.txt]}
  fit:
    cmd: mkdir -p models/a && cp before.txt models/a/weights && printf new > m.json
    deps: [before.txt, code.py]
    outs: [models/a]
    metrics: [m.json: {cache: false}]
  other: {cmd: "true", outs: [other.txt]}
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A DVC project with a requested stage, one that it needs, and one that nobody asked for; and the job that ran."""
    base = tmp_path_factory.mktemp("job")
    folder = base / "project"
    (folder / "pipeline").mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "params.yaml").write_text("epochs: 1\n")
    (folder / "code.py").write_text("pass\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shutil.copytree(folder, base / "cluster"))
        assert run_stages(str(base / "storage"), "night", REQUEST, lambda: 2) == []
    return base


@pytest.fixture
def project(job, tmp_path, monkeypatch):
    """The project, in which nothing ran."""
    folder = shutil.copytree(job / "project", tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def ran(job, tmp_path):
    """The storage after the job."""
    return shutil.copytree(job / "storage", tmp_path / "storage")


def results(storage, stage):
    (path,) = storage.glob(f"stages/{stage}-*/result.json")
    return path


def edit(path, change):
    """Change a JSON file in storage."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def manifest(storage):
    (path,) = storage.glob("jobs/night/*/manifest.json")
    return path


def collect(project, storage):
    return copy_results_back(project, str(storage), "night", REQUEST)


def entries(folder):
    return YAML(typ="safe").load((folder / "dvc.lock").read_text())["stages"]


def is_clean(project):
    command = [sys.executable, "-m", "dvc", "status", "before", "fit", "--json"]
    return json.loads(subprocess.run(command, cwd=project, capture_output=True, text=True).stdout) == {}


def everything(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*") if ".dvc" not in path.parts}


def test_results_are_committed_with_the_entries_of_the_job(project, ran, job):
    assert collect(project, ran) == (["before", "fit"], [])
    assert (project / "models/a/weights").read_bytes() == b"new"
    assert is_clean(project)
    assert entries(project) == entries(job / "cluster")
    shutil.rmtree(project / "models")
    subprocess.run([sys.executable, "-m", "dvc", "checkout", "fit"], cwd=project, check=True)  # from the cache
    assert is_clean(project)


def test_what_lies_in_the_folder_is_not_committed(project, ran):
    (project / "models/a").mkdir(parents=True)
    (project / "models/a/weights").write_text("own")
    (project / "models/a/more").write_text("own")
    assert collect(project, ran) == (["before", "fit"], [])
    assert [path.name for path in (project / "models/a").iterdir()] == ["weights"]
    assert is_clean(project)


@pytest.mark.parametrize(
    ("name", "old", "new", "what", "taken"),
    [
        ("code.py", "pass", "exit()", "fit: the job ran it with another code.py than", ["before"]),
        ("params.yaml", "1", "2", "before: the job ran it with another params.yaml: epochs than", []),
        ("dvc.yaml", "cp ", "cp -f ", "fit: the job ran it with another command than", ["before"]),
    ],
)
def test_stages_that_ran_with_something_else_are_not_taken(project, ran, name, old, new, what, taken):
    """As after an edit, or with an older image on the cluster."""
    path = project / name
    path.write_text(path.read_text().replace(old, new))
    stages, problems = collect(project, ran)
    assert stages == taken
    assert problems[0].startswith(what)
    assert not (project / "models").exists()
    assert set(entries(project) if (project / "dvc.lock").exists() else ()) == set(taken)


def test_outputs_that_are_not_those_of_the_entry(project, ran):
    """Files and checksums agree, but DVC did not write these files."""
    (results(ran, "fit").parent / NEW).with_name(hashlib.sha256(b"bad").hexdigest()).write_bytes(b"bad")
    edit(results(ran, "fit"), lambda content: content["files"].update({"m.json": hashlib.sha256(b"bad").hexdigest()}))
    before = everything(project)
    with pytest.raises(InputError, match=r"fit: m\.json is not the output that its entry in the job's dvc\.lock names"):
        collect(project, ran)
    assert everything(project) == before


@pytest.mark.parametrize("entry", [{}, {"cmd": "true", "outs": 3}, {"cmd": "true", "outs": [{"md5": "x"}]}])
def test_a_damaged_entry_is_one_line(project, ran, entry):
    edit(results(ran, "fit"), lambda content: content.update(entry=entry))
    with pytest.raises(InputError, match=r"entry for dvc\.lock is damaged") as caught:
        collect(project, ran)
    assert "\n" not in str(caught.value)
    assert not (project / "before.txt").exists()


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"other"), lambda path: path.unlink()])
def test_damaged_files(project, ran, change):
    change(results(ran, "before").parent / NEW)
    with pytest.raises(InputError, match=r"before\.txt is missing or damaged"):
        collect(project, ran)
    assert not (project / "before.txt").exists() and not (project / "models").exists()


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
        ("m.json", "before", "not an output of the stage"),
    ],
)
def test_anything_else_is_refused_and_nothing_is_written(project, ran, name, stage, reason):
    (project / "before.txt").write_text("old")
    edit(results(ran, stage), lambda content: content["files"].update({name: NEW}))
    before = everything(project.parent)
    with pytest.raises(InputError, match=reason) as caught:
        collect(project, ran)
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)
    assert everything(project.parent) == before


@pytest.mark.parametrize(
    ("stage", "key", "reason"),
    [
        ("other", "0" * 32, "'other': the stage is not among those that were asked for"),
        ("../x", "0" * 32, "not among those that were asked for"),
        ("fit", "../../x", "damaged, not a manifest"),
        ("fit", "0" * 32, "fit: its results are no longer in storage"),
    ],
)
def test_a_manifest_that_names_other_results(project, ran, stage, key, reason):
    edit(manifest(ran), lambda content: content["stages"].update({stage: key}))
    with pytest.raises(InputError, match=reason):
        collect(project, ran)
    assert not (project / "models").exists() and not (project / "before.txt").exists()


def test_files_and_folders_that_are_in_the_way_stay(project, ran):
    (project / "models").write_text("a file")
    with pytest.raises(InputError, match="models is a file, not a folder"):
        collect(project, ran)
    (project / "models").unlink()
    (project / "m.json").mkdir()
    with pytest.raises(InputError, match="a folder, not a file"):
        collect(project, ran)
    assert not (project / "models").exists() and not (project / "before.txt").exists()


@pytest.mark.parametrize("link", ["models", "models/a", "models/a/weights", "m.json"])
def test_links_are_not_followed(project, ran, tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    (project / link).parent.mkdir(parents=True, exist_ok=True)
    (project / link).symlink_to(tmp_path / "elsewhere")
    before = everything(tmp_path)
    with pytest.raises(InputError, match="symbolic link"):
        collect(project, ran)
    assert everything(tmp_path) == before


def test_links_into_the_cache_of_dvc_are_replaced(project, ran):
    (project / "models/a").mkdir(parents=True)
    cached = project / ".dvc/cache/files/md5/00/11"
    cached.parent.mkdir(parents=True)
    cached.write_text("old")
    (project / "models/a/weights").symlink_to(cached)
    assert collect(project, ran) == (["before", "fit"], [])
    assert cached.read_text() == "old" and not (project / "models/a/weights").is_symlink()


def test_results_of_an_earlier_request_under_the_same_name_are_not_taken(project, ran):
    later = Request(stages=["fit"], data="d", sources="other params")
    with pytest.raises(InputError, match="stored no results of its last request"):
        copy_results_back(project, str(ran), "night", later)
    edit(manifest(ran), lambda content: content.update(request=later.digest))
    with pytest.raises(InputError, match="belongs to another request"):
        collect(project, ran)
    assert not (project / "models").exists()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"request": "x", "stages": {"fit": ["a"]}}'])
def test_a_damaged_manifest_or_result_is_one_line(project, ran, content):
    results(ran, "fit").write_bytes(content)
    with pytest.raises(InputError, match="damaged, not a result"):
        collect(project, ran)
    manifest(ran).write_bytes(content)
    with pytest.raises(InputError, match="damaged, not a manifest"):
        collect(project, ran)
