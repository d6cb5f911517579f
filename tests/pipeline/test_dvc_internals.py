"""What pipeline/dvc_internals.py uses of DVC, tried with the DVC that is installed on a project of small stages."""

import importlib
import re
import shutil
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from project import ROOT, dvc, project_with_stages, stages_run

STAGES = """
stages:
  data:
    cmd: mkdir data && cp source.txt data/first && cp source.txt data/second
    deps: [source.txt]
    outs: [data]
  score:
    cmd: cat data/* > score.txt
    deps: [data]
    params: [k]
    outs:
      - score.txt: {cache: false}
  other:
    cmd: cp source.txt other.txt
    deps: [source.txt]
    outs: [other.txt]
"""

# From a dependency of DVC.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture
def internals():
    try:
        return importlib.import_module("pipeline.dvc_internals")
    except ImportError as error:
        pytest.fail(f"DVC {version('dvc')} has moved what pipeline/dvc_internals.py uses: {error}")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The working folder: a project with a remote, in which the stages have not run."""
    folder = project_with_stages(tmp_path, STAGES, "k: 1\n")
    dvc(folder, "remote", "add", "--default", "store", str(tmp_path / "store"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def clone(project, tmp_path):
    """Make a copy of the project in which nothing has run, without DVC's cache."""

    def make(name):
        ignored = shutil.ignore_patterns("cache", "tmp", "data", "*.txt", "dvc.lock")
        folder = shutil.copytree(project, tmp_path / name, ignore=ignored)
        shutil.copy(project / "source.txt", folder)
        return folder

    return make


def test_the_installed_version_is_the_one_that_is_pinned():
    pinned = Requirement(re.search(r'"(dvc>=[^"]+)"', (ROOT / "pyproject.toml").read_text())[1]).specifier
    assert version("dvc") in pinned, "try the new version with this file, then change pyproject.toml"
    assert "4" not in pinned and "3.99" not in pinned, "DVC is pinned to a minor version"


def test_the_graph_and_what_is_stale(project, internals):
    with internals.open_repo() as repo:
        plan = internals.plan(repo, [])
        assert plan.dependencies == {"data": set(), "score": {"data"}, "other": set()}
        assert set(plan.outputs) == {project / "data", project / "score.txt", project / "other.txt"}
        assert plan.width == 2
        assert list(internals.plan(repo, ["score"]).dependencies) == ["data", "score"]
        assert internals.stale(repo, plan.dependencies) == set(plan.dependencies)
        with pytest.raises(internals.DvcException):
            internals.plan(repo, ["nothing"])
    dvc(project, "repro")
    (project / "params.yaml").write_text("k: 2\n")
    with internals.open_repo() as repo:
        assert internals.stale(repo, plan.dependencies) == {"score"}
        assert internals.stale(repo, []) == set()


def test_runs_that_were_pushed_are_not_run_again(project, internals, clone, monkeypatch):
    """Outputs outside of DVC's cache too, which `dvc push` leaves out."""
    dvc(project, "repro")
    with internals.open_repo() as repo:
        for stage in ("data", "score"):
            internals.push_run(repo, stage)
    monkeypatch.chdir(second := clone("second"))
    ran = set()
    for stage in ("data", "score", "other"):
        with internals.open_repo() as repo:
            assert internals.pull_run(repo, stage) == (stage != "other")
        ran |= stages_run(dvc(second, "repro", "--single-item", stage))
    assert ran == {"other"}
    assert (second / "dvc.lock").read_text() == (project / "dvc.lock").read_text()
    assert (second / "score.txt").read_text() == "source\n" * 2

    third = clone("third")
    (third / "params.yaml").write_text("k: 2\n")
    monkeypatch.chdir(third)
    with internals.open_repo() as repo:
        assert internals.pull_run(repo, "data")
    dvc(third, "repro", "--single-item", "data")
    with internals.open_repo() as repo:
        assert not internals.pull_run(repo, "score")


def test_a_run_whose_files_are_gone_runs_again(project, internals, clone, monkeypatch, tmp_path):
    dvc(project, "repro", "data")
    with internals.open_repo() as repo:
        internals.push_run(repo, "data")
    shutil.rmtree(tmp_path / "store/files")
    monkeypatch.chdir(second := clone("second"))
    with internals.open_repo() as repo:
        assert not internals.pull_run(repo, "data")
    assert stages_run(dvc(second, "repro", "data")) == {"data"}


def test_outputs_that_have_changed_are_not_pushed(project, internals, tmp_path):
    dvc(project, "repro")
    (project / "score.txt").write_text("edited\n")
    with internals.open_repo() as repo, pytest.raises(internals.DvcException, match="its outputs are not those"):
        internals.push_run(repo, "score")
    assert not (tmp_path / "store/runs").exists()


def test_a_run_of_another_stage_is_refused(project, internals, clone, monkeypatch, tmp_path):
    """Whoever may write to the remote could otherwise write any file of the project."""
    dvc(project, "repro")
    with internals.open_repo() as repo:
        internals.push_run(repo, "score")
        internals.push_run(repo, "data")
    (run,) = (path for path in (tmp_path / "store/runs").rglob("*") if path.is_file() and "score" in path.read_text())
    run.write_text(run.read_text().replace("path: score.txt", "path: evil.txt"))
    monkeypatch.chdir(second := clone("second"))
    dvc(second, "repro", "data")
    for _ in range(2):
        with internals.open_repo() as repo, pytest.raises(internals.DvcException, match="belongs to another stage"):
            internals.pull_run(repo, "score")
    assert stages_run(dvc(second, "repro", "score")) == {"score"}
    assert not (second / "evil.txt").exists()


def test_a_project_without_git_works(internals, tmp_path):
    """Such as a downloaded archive, which DVC refuses otherwise."""
    project = project_with_stages(tmp_path, STAGES, "k: 1\n")
    (project / ".dvc/config").write_text("[core]\n    analytics = false\n")
    assert dvc(project, "status", check=False).returncode != 0
    internals.work_without_git(project)
    assert dvc(project, "status").returncode == 0
    assert (project / ".dvc/config.local").read_text().split() == ["[core]", "no_scm", "=", "True"]
