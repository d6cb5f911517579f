"""Stages as Prefect tasks, on a temporary server."""

import sys

import pytest
from killing import NO_PROXY
from project import ROOT, command

SCRIPT = """
import types
import prefect
from prefect.states import Completed, Crashed
from pipeline.workflow.tasks import run_stages

graph = types.SimpleNamespace(dependencies={"a": set(), "b": set(), "c": {"b"}}, stale=set, first=min)

@prefect.task(task_run_name="{name}", persist_result=False)
def run(name, arguments, children, pull=None):
    return Completed() if name == "a" else Crashed(message="out of memory")

@prefect.flow
def stages():
    print(run_stages(graph, run, None, 2))

stages()
"""


@pytest.mark.slow
def test_a_task_that_crashed_is_a_problem(tmp_path):
    """It has not failed in Prefect's sense. The run must not count as complete."""
    settings = NO_PROXY | {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"}
    ran = command(ROOT, sys.executable, "-c", SCRIPT, **settings)
    problems = ["b: out of memory", "not run, because a dependency failed: c"]
    assert ran.stdout.splitlines()[-1] == str(problems), ran.stdout
