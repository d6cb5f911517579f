"""A stage that hangs, and the runs that it would block: on a real server, with runs in clones."""

import sys
from datetime import datetime
from itertools import pairwise

import pytest
from killing import NO_PROXY
from orchestra import Orchestra, with_infra
from project import command, commit, copy_project

HANGING = """
  hanging:
    cmd: echo x >> {count} && sleep 600
"""
LIMIT = 70  # seconds: time for three heartbeats


@pytest.fixture
def project(tmp_path):
    """A project with a stage that hangs, and counts outside of the project how often it has begun."""
    project = copy_project(tmp_path / "project", git=True)
    path = project / "dvc.yaml"
    path.write_text(path.read_text().replace("stages:", "stages:" + HANGING.format(count=tmp_path / "count.txt"), 1))
    commit(project)
    return project


def test_in_a_terminal_it_is_one_line(project, tmp_path):
    """It is not tried again: that would take as long."""
    arguments = ["--stage-timeout", "3", "--retries", "2", "--retry-delay", "0", "hanging"]
    settings = NO_PROXY | {"PREFECT_HOME": str(tmp_path / "home")}
    ran = command(project, sys.executable, "-m", "pipeline.workflow", *arguments, check=False, **settings)
    assert ran.returncode == 1
    (line,) = (line for line in ran.stderr.splitlines() if line.startswith("workflow: "))
    assert line == (
        "workflow: hanging: dvc repro --single-item hanging was terminated after 3 s, its limit (stage_timeout); "
        "run it again to resume"
    )
    assert ran.stderr.splitlines()[1:] == ["output of hanging: logs/stages/hanging.log"]
    assert (tmp_path / "count.txt").read_text() == "x\n"


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_a_limit_is_a_number_above_0(project, text):
    ran = command(project, sys.executable, "-m", "pipeline.workflow", "--stage-timeout", text, check=False)
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].endswith(f"argument --stage-timeout: invalid positive value: '{text}'")


@pytest.mark.slow
def test_a_stage_that_hangs_fails_and_a_night_that_is_refused_is_told(project, webhook, tmp_path):
    """Until then its run sends heartbeats. A run that a user cancels is not told."""
    origin = tmp_path / "origin.git"
    command(project, "git", "clone", "--quiet", "--bare", str(project), str(origin))
    address, messages = webhook
    orchestra = Orchestra(with_infra(project), address)
    with orchestra.serving(origin):
        command(project, sys.executable, "infra/prefect/automations.py", **orchestra.settings)
        changes = {"targets": ["hanging"], "pull": False, "push": False, "experiment": None, "stage_timeout": LIMIT}
        first = orchestra.trigger("reproduce/nightly", **changes)
        orchestra.wait_for((tmp_path / "count.txt").exists)
        second = orchestra.ended(orchestra.trigger("reproduce/nightly", **changes))
        assert (second["state"]["type"], second["state"]["name"]) == ("CANCELLED", "Cancelled")
        assert second["state"]["message"] == "Deployment concurrency limit reached."
        other = orchestra.trigger("reproduce/on-demand", targets=["hanging"], pull=False, push=False)
        orchestra.wait_for(lambda: (tmp_path / "count.txt").read_text() == "x\nx\n")
        orchestra.prefect("flow-run", "cancel", other)
        assert orchestra.ended(other)["state"]["type"] == "CANCELLED"
        ended = orchestra.ended(first)
        assert ended["state"]["type"] == "FAILED", orchestra.log(first)
        assert f"was terminated after {LIMIT} s, its limit (stage_timeout)" in ended["state"]["message"]
        assert orchestra.states(first)["hanging"] == "TimedOut"
        assert (tmp_path / "count.txt").read_text() == "x\nx\n"
        orchestra.wait_for(lambda: len(messages) >= 2, 60)
        times = heartbeats(orchestra, first)
    assert len(messages) == 2
    refused, failed = (message["text"] for message in messages)
    assert f"{second['name']}: not started, because the previous run of its deployment is still running" in refused
    assert f"reproduce {ended['name']}: Failed: hanging: " in failed
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    assert len(gaps) >= 2 and all(29 < gap < 40 for gap in gaps), gaps


def heartbeats(orchestra, run):
    """When the run has sent heartbeats."""
    wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
    events = orchestra.post("/events/filter", filter=wanted | {"order": "ASC"})["events"]
    return [datetime.fromisoformat(event["occurred"].replace("Z", "+00:00")) for event in events]
