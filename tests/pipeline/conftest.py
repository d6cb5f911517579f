"""One DVC run of a tiny experiment, shared by the tests of this folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import NamedTuple

import pytest
import torch
from filelock import FileLock
from project import DISK, commit, copy_project, dvc, environment, freeze_studies

from pipeline.__main__ import main

# A shell starts background processes with Ctrl-C ignored, and so would everything that tests start; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Reproduced(NamedTuple):
    """A project after its first `dvc repro`, and the output of that command."""

    folder: Path
    ran: CompletedProcess[str]


class Outcome(NamedTuple):
    """How a stage ended."""

    code: int
    errors: list[str]  # lines on standard error


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory) -> Reproduced:
    """The shared project, one for all processes of pytest-xdist. Tests that change anything take a `copy`."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, output = shared / "reproduced" / "project", shared / "reproduced" / "output.json"
    with FileLock(shared / "reproduced.lock"):
        if not output.exists():
            copy_project(folder, git=True)
            ran = dvc(folder, "repro")
            commit(folder)
            output.write_text(json.dumps([ran.args, ran.returncode, ran.stdout, ran.stderr]))
    return Reproduced(folder, CompletedProcess(*json.loads(output.read_text())))


@pytest.fixture
def copy(reproduced, tmp_path) -> Path:
    """The reproduced project with its git history and DVC cache, and with frozen studies."""
    folder = shutil.copytree(reproduced.folder, tmp_path / "project")
    freeze_studies(folder)
    commit(folder)
    return folder


@pytest.fixture
def files(reproduced, tmp_path) -> Path:
    """The files that stages read and write, without code, git and DVC's cache."""
    ignored = shutil.ignore_patterns(".git", ".dvc", "flowvae", "pipeline")
    return shutil.copytree(reproduced.folder, tmp_path / "project", ignore=ignored)


@pytest.fixture
def run_stage(monkeypatch, capsys) -> Iterator[Callable[..., Outcome]]:
    """Run `python -m pipeline ARGUMENTS` in a folder, in this process, because a new one takes seconds to start."""

    def run(project: Path, *arguments: str, **changes: str) -> Outcome:
        # The whole mapping is restored afterwards, with whatever main adds to it.
        monkeypatch.setattr(os, "environ", environment(project, **changes))
        monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
        monkeypatch.chdir(project)
        capsys.readouterr()
        code = main()
        return Outcome(code, capsys.readouterr().err.splitlines())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as OMP_NUM_THREADS says, which only a new process reads
    yield run
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def complaint(run_stage):
    """Run a stage that must fail with one line. Returns: the line without the stage's name."""

    def run(project: Path, *arguments: str, **changes: str) -> str:
        code, errors = run_stage(project, *arguments, **changes)
        assert code == 1
        (line,) = (line for line in errors if not line.endswith("and no mirror answers"))
        assert line.startswith(f"{arguments[0]}: ")
        assert not list(project.rglob("*.partial"))
        return line.removeprefix(f"{arguments[0]}: ")

    return run


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data."""
    given = os.environ.get("FLOWVAE_DATA_ROOT")
    if not given:
        pytest.skip("FLOWVAE_DATA_ROOT names no folder with MNIST/raw and binarized_mnist")
    return Path(given)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system that has little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
