"""The stages of a job: side by side, stored when they end, not repeated. A real DVC project with a real folder."""

import shutil
import subprocess
import sys
import time

import pytest

from pipeline.submit.request import Request
from pipeline.submit.results import copy_results_back
from pipeline.submit.stages import run_stages

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in a package that DVC uses
DVC_YAML = """
stages:
  train:
    matrix: {name: [a, b, c]}
    cmd: date +%s.%N >> ../log/${key} && sleep ${seconds} && test ! -e ../broken-${key} && echo ${key} > ${key}.txt
    params: [seconds]
    outs: ["${key}.txt"]
  score:
    matrix: {name: [a, b, c]}
    cmd: cp ${key}.txt ${key}.json
    deps: ["${key}.txt"]
    metrics: ["${key}.json": {cache: false}]
"""
REQUEST = Request(stages=["score"], data="d", sources="s")


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    (tmp_path / "log").mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    return folder


@pytest.fixture
def run(project, tmp_path, monkeypatch):
    """Run a job in a new copy of the project, as a cluster does. Returns: its problems."""

    def run_job(limit=lambda: 3, seconds=0):
        (project / "params.yaml").write_text(f"seconds: {seconds}\n")
        copy = shutil.copytree(
            project, tmp_path / f"cluster-{time.monotonic_ns()}", ignore=shutil.ignore_patterns("*.txt")
        )
        with monkeypatch.context() as patch:
            patch.chdir(copy)
            return run_stages(str(tmp_path / "storage"), "night", REQUEST, limit)

    return run_job


def starts(tmp_path):
    """When training was started, by its name."""
    return {path.name: [float(line) for line in path.read_text().split()] for path in (tmp_path / "log").iterdir()}


def test_a_failed_stage_keeps_no_other_from_coming_home_and_nothing_is_repeated(
    project, run, tmp_path, monkeypatch, capfd
):
    (tmp_path / "broken-b").touch()
    problem, blocked = run()
    assert problem.startswith("train@b: dvc repro --single-item train@b failed with exit code 255: ")
    assert blocked == "not run, because a dependency failed: score@b"
    monkeypatch.chdir(project)
    taken, problems = copy_results_back(project, str(tmp_path / "storage"), "night", REQUEST)
    assert sorted(taken) == ["score@a", "score@c", "train@a", "train@c"]
    assert problems == [problem, blocked]
    assert (project / "a.json").is_file() and not (project / "b.json").exists()
    capfd.readouterr()
    (tmp_path / "broken-b").unlink()
    assert run() == []
    assert {name: len(times) for name, times in starts(tmp_path).items()} == {"a": 1, "b": 2, "c": 1}
    assert "[train@a] is not run again; its results were in storage" in capfd.readouterr().out
    assert len(copy_results_back(project, str(tmp_path / "storage"), "night", REQUEST)[0]) == 6


def test_damaged_results_are_made_again(run, tmp_path, capfd):
    assert run() == []
    for path in (tmp_path / "storage").glob("stages/train@a-*/*"):
        path.write_bytes(b"{")
    assert run() == []
    assert {name: len(times) for name, times in starts(tmp_path).items()} == {"a": 2, "b": 1, "c": 1}
    assert "[train@a] runs again: " in capfd.readouterr().out


def test_stages_that_wait_for_nothing_run_side_by_side_and_their_number_grows(run, tmp_path):
    limits = iter([1, 1])
    assert run(lambda: next(limits, 3), seconds=15) == []
    first, *others = sorted(times[0] for times in starts(tmp_path).values())
    assert min(others) - first > 3
    assert max(others) - first < 15  # while the first one still runs


def test_results_of_stages_that_have_ended_are_there_while_the_job_runs(project, run, tmp_path, monkeypatch):
    def limit():
        if any((tmp_path / "storage").glob("stages/train@*/result.json")) and not (tmp_path / "then").exists():
            shutil.copytree(tmp_path / "storage", tmp_path / "then")
        return 1

    assert run(limit) == []
    monkeypatch.chdir(project)
    taken, problems = copy_results_back(project, str(tmp_path / "then"), "night", REQUEST)
    assert taken and len(taken) < 6 and len(taken) + len(problems) == 6
    assert all(problem.endswith(": has not ended") for problem in problems)
