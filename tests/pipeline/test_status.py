"""What `flowvae status` says, on a project of small stages that a real DVC runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from examples import tiny_config, training_config
from project import ROOT, command, dvc, edit_params, environment, project_with_stages, settings_only

from pipeline import paths
from pipeline.fitting import RunSpec
from pipeline.running.progress import write_diagnostics
from pipeline.running.records import durations, output_file, record_failure, record_success
from pipeline.status import grouped, main

STAGES = """
stages:
  fetch:
    cmd: mkdir -p data && cp source.txt data/source.json
    always_changed: true
    outs: [data/source.json]
  train:
    matrix:
      run: [a-0, b-0, c-0]
    cmd: test ! -e hold || sleep 60; mkdir -p models/${item.run} && cp data/source.json models/${item.run}
    deps: [data/source.json]
    params: ["runs.${item.run}"]
    outs: ["models/${item.run}"]
  report:
    cmd: ls models > report.txt
    deps: [models]
    outs:
      - report.txt: {cache: false}
"""
# From a dependency of DVC.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")
MAX_SECONDS = 30  # to start a process


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The working folder, in which nothing has run."""
    folder = project_with_stages(tmp_path, STAGES, "runs: {a-0: 1, b-0: 1, c-0: 1}\n")
    for name, value in environment(folder).items():
        if name.startswith("DVC_"):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def lines(capsys):
    """The lines that the command prints."""

    def run():
        assert main() == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out.splitlines()

    return run


def run_id(name):
    config = {"vae": tiny_config(), "training": training_config(), "data": {}, "prepared": Path(), "logs": Path()}
    return RunSpec(name=name, seed=0, profile=False, **config).run_id


def test_what_is_stale(project, lines):
    assert lines() == [
        "0 of 5 stages are up to date",
        "stale:",
        "  fetch                          1 missing output",
        "  train@a-0 and 2 more of train  params.yaml new, 1 missing output",
        "  report                         1 missing output",
    ]
    dvc(project, "repro")
    assert lines() == ["5 of 5 stages are up to date"]
    (project / "params.yaml").write_text("runs: {a-0: 2, b-0: 1, c-0: 1}\n")
    (project / "report.txt").write_text("edited\n")
    assert lines() == [
        "3 of 5 stages are up to date",
        "stale:",
        "  train@a-0  params.yaml: runs.a-0",
        "  report     report.txt modified",
    ]
    dvc(project, "repro", "report")
    (project / "source.txt").write_text("other\n")  # of which nothing depends but a stage that always runs
    (project / "models/b-0/source.json").write_text("edited\n")
    assert lines() == [
        "3 of 5 stages are up to date",
        "stale:",
        "  train@b-0  models/b-0 modified",
        "depend on those:",
        "  report",
    ]


def test_what_runs(project, lines):
    dvc(project, "repro", "fetch")
    (project / "hold").touch()
    repro = [sys.executable, "-m", "dvc", "repro", "--single-item", "train@b-0"]
    settings = {"cwd": project, "env": environment(project), "start_new_session": True}
    with subprocess.Popen(repro, stdout=subprocess.DEVNULL, **settings) as process:
        try:
            end = time.monotonic() + MAX_SECONDS
            while (said := lines())[1] != "running:":
                assert time.monotonic() < end and process.poll() is None
                time.sleep(0.2)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert said == [
        "1 of 5 stages are up to date",
        "running:",
        f"  train@b-0  process {process.pid}",
        "stale:",
        "  train@a-0 and 1 more of train  data/source.json modified, params.yaml new, 1 missing output",
        "depend on those:",
        "  report",
    ]
    assert "  train@a-0 and 2 more of train  data/source.json modified, params.yaml new, 1 missing output" in lines(), (
        "the process that was killed still runs"
    )


def test_trainings_that_did_not_end(project, lines):
    """Their files are where training writes them; a name that only begins like one is another run."""
    dvc(project, "repro", "fetch")
    (paths.CHECKPOINTS / run_id("a-0")).mkdir(parents=True)
    (paths.CHECKPOINTS / run_id("c-0-1")).mkdir()
    diagnostics = write_diagnostics(paths.LOGS / "train", "b-0", SimpleNamespace(dump={}))
    (paths.LOGS / "train/a-0.log").touch()
    assert lines()[:4] == [
        "1 of 5 stages are up to date",
        "failed or interrupted:",
        "  train@a-0  interrupted, resumes from its checkpoint; log: logs/train/a-0.log",
        f"  train@b-0  its loss was not finite: {diagnostics}",
    ]
    dvc(project, "repro")
    assert lines() == ["5 of 5 stages are up to date"]
    (project / "params.yaml").write_text("runs: {a-0: 1, b-0: 2, c-0: 1}\n")
    assert "failed or interrupted:" not in lines(), "it has trained since"


def test_a_failure_is_known_until_the_stage_succeeds(project, lines):
    """Whether it is a run of the workflow or DVC alone that runs it then."""
    dvc(project, "repro", "fetch")
    for stage in ("fetch", "train@b-0", "report"):
        record_failure(stage, "the disk is on fire")
    output_file("train@b-0").write_text("reading\nthe disk is on fire\n")
    record_success("report", seconds=2.04)
    assert lines()[:4] == [
        "1 of 5 stages are up to date",
        "failed or interrupted:",
        "  fetch      the disk is on fire",
        "  train@b-0  the disk is on fire; log: logs/stages/train@b-0.log",
    ]
    dvc(project, "repro")
    assert lines() == ["5 of 5 stages are up to date"]


def test_durations_are_those_of_stages_that_ran(project):
    """Of one that DVC took from its cache, the one before is kept; a file that is damaged is no reason to fail."""
    record_success("train@a-0", seconds=12.34)
    record_success("train@a-0", seconds=None)
    record_success("train@b-0", seconds=5)
    (paths.TIMINGS / "stages/train@b-0.json").write_text("{")
    (paths.TIMINGS / "train").mkdir()
    for name in ("a-0", "c-0"):
        (paths.TIMINGS / f"train/{name}.json").write_text('{"seconds": 9.5}')
    stages = ["train@a-0", "train@b-0", "train@c-0", "report"]
    assert durations(stages) == {"train@a-0": 12.3, "train@c-0": 9.5}


def test_stages_are_grouped_by_what_is_said_of_them():
    assert grouped({"train@a": "x", "train@b": "y", "evaluate@a": "x", "train@c": "x", "report": "x"}) == {
        "train@a and 1 more of train": "x",
        "train@b": "y",
        "evaluate@a": "x",
        "report": "x",
    }


def test_mistakes_are_lines(tmp_path):
    """Also values of params.yaml of which DVC makes something else than an error of its own."""
    project = settings_only(tmp_path)
    dvc(project, "init", "--quiet", "--no-scm")
    (project / "pipeline").symlink_to(ROOT / "pipeline")
    edit_params(project, lambda params: params.update(seeds=0))
    for expected in ("params.yaml: seeds: ", "dvc.yaml"):
        ran = command(project, sys.executable, "-m", "flowvae", "status", check=False)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert expected in ran.stderr and all(line.startswith("status: ") for line in ran.stderr.splitlines())
        edit_params(project, lambda params: params.update(seeds=[0]))
        (project / "dvc.yaml").write_text("stages: [")
