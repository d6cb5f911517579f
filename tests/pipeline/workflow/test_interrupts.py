"""Ctrl-C and SIGTERM on `python -m pipeline.workflow`, which starts a temporary Prefect server."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from killing import NO_PROXY, is_alive, wait_for
from project import copy_project, environment

HANGING = """
  hanging:
    cmd: touch begun.txt && sleep 300
"""
LINE = "workflow: interrupted; run again to resume"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a stage that takes long."""
    folder = copy_project(tmp_path_factory.mktemp("interrupts") / "project", git=True)
    path = folder / "dvc.yaml"
    path.write_text(path.read_text().replace("stages:", "stages:" + HANGING, 1))
    return folder


@pytest.fixture
def started(project):
    """A run in its own session, as a terminal or `make` starts it."""
    (project / "begun.txt").unlink(missing_ok=True)
    with (project.parent / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.workflow", "hanging"],
            cwd=project,
            env=environment(project, **settings(project)),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    yield process
    for left in members(project):
        left.kill()
    process.wait(30)


def settings(project):
    home = str(project.parent / "home")
    return NO_PROXY | {"PREFECT_HOME": home, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


def members(project):
    """The processes of runs in the project, in whatever session they are, with their servers and stages."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT_HOME") == str(project.parent / "home"):
                found.append(process)
        except psutil.Error:
            continue
    return list(filter(is_alive, found))


def at_once(project):
    time.sleep(0.5)


def while_prefect_starts(project):
    wait_for(lambda: any("uvicorn" in process.cmdline() for process in members(project)))


def in_a_stage(project):
    wait_for((project / "begun.txt").exists)


def end(process, project, numbers, patience=10):
    """Send signals to the whole group, as a terminal does, and check that everything ends with one line."""
    log = project.parent / "output.txt"
    before, started = len(log.read_text()), time.monotonic()
    for number in numbers:
        os.killpg(process.pid, number)
        time.sleep(0.5)
    code = process.wait(patience)
    assert time.monotonic() - started < patience
    assert not members(project)
    *others, last = log.read_text()[before:].splitlines()
    assert last == LINE
    assert not any(word in line for line in others for word in ("Traceback", "rror", "workflow: ", "rash")), others
    return code


def test_ctrl_c_while_python_starts(started, project):
    at_once(project)
    assert end(started, project, [signal.SIGINT]) == 130


def test_ctrl_c_in_a_stage(started, project):
    in_a_stage(project)
    assert end(started, project, [signal.SIGINT]) == 130


@pytest.mark.slow
@pytest.mark.parametrize("moment", [at_once, while_prefect_starts, in_a_stage])
@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGINT] * 3, 130),
        ([signal.SIGTERM], 143),
        ([signal.SIGTERM, signal.SIGINT], 143),
    ],
)
def test_signals_at_any_time(started, project, moment, numbers, code):
    moment(project)
    assert end(started, project, numbers) == code


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_nothing_behind(started, project):
    in_a_stage(project)
    assert len(members(project)) > 4
    started.kill()
    wait_for(lambda: not members(project))


@pytest.mark.slow
def test_without_a_terminal_an_ignored_ctrl_c_stays_ignored(started, project):
    """A shell starts jobs in the background like this; the other signal still ends them."""
    started.kill()
    wait_for(lambda: not members(project))
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-m", "pipeline.workflow", "hanging"]
    with (project.parent / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, cwd=project, env=environment(project, **settings(project)), stdout=output,
                                   stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    in_a_stage(project)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(2)
    assert process.poll() is None and members(project)
    assert end(process, project, [signal.SIGTERM]) == 143
