"""Stages run by the Python that runs DVC, whatever environment is active and wherever the project lies."""

import os
import sys
from pathlib import Path

import pytest
from killing import NO_PROXY
from project import command, commit, copy_project, edit_params, environment, freeze_studies

PYTHON = Path(sys.executable)


@pytest.fixture
def project(tmp_path):
    """A project that was not run, in a folder whose name a shell would split."""
    folder = copy_project(tmp_path / "it's (my) project", git=True)
    freeze_studies(folder)
    commit(folder)
    return folder


@pytest.fixture
def foreign(tmp_path):
    """Variables of another active environment, with a Python in which nothing is installed."""
    folder = tmp_path / "foreign"
    (folder / "bin").mkdir(parents=True)
    for name in ("python", "python3"):
        (folder / "bin" / name).write_text("#!/bin/sh\necho 'the wrong Python' >&2\nexit 1\n")
        (folder / "bin" / name).chmod(0o755)
    return {
        "VIRTUAL_ENV": str(folder),
        "CONDA_PREFIX": str(folder),
        "PATH": os.pathsep.join((str(folder / "bin"), os.environ["PATH"])),
    }


@pytest.mark.parametrize("way", ["-m dvc", "script", "relative"])
def test_another_environment_is_active(project, foreign, way):
    starts = {
        "-m dvc": (str(PYTHON), "-m", "dvc"),
        "script": (str(PYTHON.with_name("dvc")),),
        "relative": (os.path.relpath(PYTHON, project), "-m", "dvc"),
    }
    if not Path(starts[way][0]).exists() and way == "script":
        pytest.skip("DVC's script is not beside this Python")
    ran = command(project, *starts[way], "repro", "fetch", **foreign)
    assert "the wrong Python" not in ran.stderr
    assert (project / "data/source.json").exists()


def test_without_dvc_the_environment_of_the_project(project, foreign):
    """A person who runs the script by hand: with the project's .venv, else the active Python."""
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/bin/python").write_text("#!/bin/sh\necho the right Python, $2 $3\n")
    (project / ".venv/bin/python").chmod(0o755)
    assert command(project, "sh", "pipeline/run.sh", "fetch", **foreign).stdout == "the right Python, pipeline fetch\n"
    (project / ".venv/bin/python").unlink()
    ran = command(project, "sh", "pipeline/run.sh", "fetch", check=False, **foreign)
    assert ran.returncode == 1 and "the wrong Python" in ran.stderr


@pytest.mark.slow
def test_an_experiment_in_a_temporary_copy(project, foreign):
    """DVC copies what git tracks, without an environment."""
    command(project, str(PYTHON), "-m", "dvc", "exp", "run", "--temp", "--name", "copied", "prepare", **foreign)
    assert "copied" in command(project, str(PYTHON), "-m", "dvc", "exp", "list", "--name-only").stdout.split()


@pytest.mark.slow
def test_a_study_where_the_path_of_the_environment_has_spaces(project):
    """Ray would start no worker there, and wait."""
    (project / ".venv").symlink_to(PYTHON.parents[1])
    edit_params(project, lambda params: params["studies"].pop("stability"))
    python = str(project / ".venv/bin" / PYTHON.name)
    changes = NO_PROXY | {"PATH": f"{project}/.venv/bin{os.pathsep}{environment(project)['PATH']}"}
    for stage in ("fetch", "prepare"):
        command(project, python, "-m", "pipeline", stage, **changes)
    ran = command(project, "timeout", "300", python, "-m", "pipeline", "study", "--name", "depth", **changes)
    assert "depth  trials 3/3" in ran.stdout
