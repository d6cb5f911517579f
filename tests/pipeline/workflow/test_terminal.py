"""Whole runs as people see them, on a pseudo-terminal and in a pipe, with a temporary Prefect server and a real DVC."""

import re
import sys
import time

import pytest
from killing import NO_PROXY, wait_for
from project import command, environment, project_with_stages
from terminal import HIDE, terminal

STAGES = """
stages:
  quick:
    cmd: 'echo "quick: warning: few data"; echo "x  -ELBO 94.29 ± 0.25  NLL 90.19 ± 0.27"; cp source.txt quick.txt'
    deps: [source.txt]
    outs: [quick.txt]
  slow:
    cmd: for i in 1 2 3 4 5 6 7 8; do echo "slow  images $i/8"; sleep 1; done; cp quick.txt slow.txt
    deps: [quick.txt]
    outs: [slow.txt]
  broken:
    cmd: 'echo reading; test -e fixed || { echo "the disk is on fire" >&2; exit 3; }; cp source.txt broken.txt'
    deps: [source.txt]
    outs: [broken.txt]
  after:
    cmd: cp broken.txt after.txt
    deps: [broken.txt]
    outs: [after.txt]
  hanging:
    cmd: touch begun.txt && sleep 300
"""
TARGETS = ["slow", "after"]
RUN = [sys.executable, "-m", "pipeline.workflow"]
MAX_SECONDS = 300  # far longer than a run takes


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project of small stages."""
    return project_with_stages(tmp_path_factory.mktemp("terminal"), STAGES, "k: 1\n")


def settings(project, **changes):
    home = {"PREFECT_HOME": str(project.parent / "home")}
    return environment(project, TERM="xterm-256color", **NO_PROXY, **home, **changes)


def status(project):
    return command(project, sys.executable, "-m", "pipeline.status").stdout.splitlines()


def shows(shown, beginning, ending):
    """Whether a terminal has shown a line with both."""
    return any(line.startswith(beginning) and ending in line for line in shown.lines)


def test_a_run_in_which_a_stage_fails_and_one_in_which_none_does(project):
    """The first on a terminal that becomes smaller, the second in a pipe; between them, status knows what failed."""
    with terminal(project, [*RUN, *TARGETS], settings(project)) as shown:
        assert wait_for(lambda: shows(shown, "slow ", "%"), shown.process), shown.lines[-9:]
        shown.resize(50, 14)
        assert shown.wait(MAX_SECONDS) == 1
        assert shown.is_sane() and HIDE in shown.text
    said = "\n".join(shown.lines)
    scores = "−ELBO 94.29 ± 0.25, NLL 90.19 ± 0.27"
    for words in ("quick: warning: few data", scores, "broken failed: the disk is on fire", "reading", "✓ slow  "):
        assert words in said, shown.lines[-30:]
    assert not re.search(r"INFO|Flow run|Traceback|\d\d:\d\d", said)
    assert shown.lines[-3:] == [
        "workflow: broken: dvc repro --single-item broken failed with exit code 255: the disk is on fire",
        "workflow: not run, because a dependency failed: after",
        "output of broken: logs/stages/broken.log",
    ]
    assert "the disk is on fire" in (project / "logs/stages/broken.log").read_text()
    assert "Flow run" in (project / "logs/workflow.log").read_text()
    assert "  broken  the disk is on fire; log: logs/stages/broken.log" in status(project)

    (project / "fixed").touch()
    ran = command(project, *RUN, *TARGETS, PREFECT_HOME=str(project.parent / "home"), **NO_PROXY)
    first, *lines, last = (re.sub(r"\d+ (s|min)\b", "N s", line) for line in ran.stdout.splitlines())
    assert first == "4 stages, of which 2 may run, up to 2 at a time; time left unknown: no timing yet of broken, after"
    assert lines == ["broken started", "broken finished in N s", "after started", "after finished in N s"]
    assert last == "4 stages up to date, 2 ran in N s"
    assert "\x1b" not in ran.stdout + ran.stderr and ran.stderr == ""
    assert "failed or interrupted:" not in status(project)


def test_ctrl_c_on_a_terminal(project):
    """One line is left, and the terminal as it was."""
    with terminal(project, [*RUN, "hanging"], settings(project)) as shown:
        assert wait_for((project / "begun.txt").exists, shown.process), shown.lines[-9:]
        started = time.monotonic()
        shown.type("\x03")
        assert shown.wait(10) == 130
        assert time.monotonic() - started < 10
        assert shown.is_sane()
    assert shown.lines[-1] == "workflow: interrupted; run again to resume"
