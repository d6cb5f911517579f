"""Nodes with an older checkout: a real cluster of two nodes, one of which finds older code first."""

import re
import secrets
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from killing import NO_PROXY, finish, free_port, ray_node, results, start, undisturbed, wait_for
from project import ROOT, command, stage

from pipeline.distributed.driver_code import PACKAGES, folder_of, sent_code
from pipeline.fitting import code_hash

pytestmark = pytest.mark.slow
TWO = ("--workers", "2")
ONE_STEP_LOWER = """
newer = learning_rate


def learning_rate(*arguments, **settings):
    return newer(*arguments, **settings) / 2
"""
# As if Ray did not send the code: the nodes import their own.
NOTHING_SENT = """
import json
import sys
from contextlib import contextmanager

from pipeline.distributed import cluster
from pipeline.distributed.driver_code import EXPECTED, versions

@contextmanager
def nothing_sent():
    yield {"env_vars": {EXPECTED: json.dumps(versions())}}

cluster.sent_code = nothing_sent
from pipeline.__main__ import main

sys.exit(main())
"""


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A checkout in which the learning rate is another one."""
    folder = tmp_path_factory.mktemp("older")
    for package in ("flowvae", "pipeline"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "flowvae/training/schedules.py").open("a") as file:
        file.write(ONE_STEP_LOWER)
    return folder


@pytest.fixture(params=[1])
def cluster(request, tmp_path, files, older):
    """Variables for a cluster of a head with this checkout and a node with the older one, one CPU each.

    The parameter is the number of CPUs of the head.
    """
    (tmp_path / "token").write_text(secrets.token_hex(32))
    port = free_port()
    head = (
        "--head",
        f"--port={port}",
        "--node-ip-address=127.0.0.1",
        "--dashboard-port=0",
        f"--num-cpus={request.param}",
    )
    paths = {"head": str(ROOT), "older": f"{older}:{ROOT}"}
    arguments = {"head": head, "older": (f"--address=127.0.0.1:{port}",)}
    with ExitStack() as nodes:
        for name, path in paths.items():
            process = nodes.enter_context(ray_node(tmp_path / name, *arguments[name], PYTHONPATH=path))
            output = tmp_path / name / "output.txt"
            started = wait_for(lambda output=output: "Ray runtime started" in output.read_text(), process)
            assert started, output.read_text()
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
        yield token | {"RAY_ADDRESS": f"127.0.0.1:{port}", "FLOWVAE_STORAGE": str(files / "checkpoints")}


def test_workers_train_with_the_code_of_the_driver(files, cluster):
    expected = undisturbed(files, *TWO, FLOWVAE_CPUS_PER_WORKER="1")
    finish(start(files, *TWO, **cluster), files)
    assert results(files) == expected


def refused(files, cluster, *arguments):
    """Run a stage, which must fail because a worker runs other code. Returns: the lines on standard error."""
    (files / "nothing_sent.py").write_text(NOTHING_SENT)
    variables = NO_PROXY | cluster | {"PYTHONPATH": str(ROOT)}
    ran = command(files, sys.executable, "nothing_sent.py", *arguments, check=False, **variables)
    assert ran.returncode == 1, ran.stderr[-3000:]
    return ran.stderr.splitlines()


REFUSED = re.compile(r"node [\d.]+: runs flowvae \w+ instead of \w+, which the driver runs; install the same there")


def test_a_group_with_a_worker_that_runs_other_code_is_refused_in_one_line(files, cluster):
    line = refused(files, cluster, "train", "--variant", "vae", "--seed", "0", *TWO)[-1]
    assert line.startswith("train: ") and REFUSED.search(line)


@pytest.mark.parametrize("cluster", [0], indirect=True)
def test_trials_and_computations_are_refused_by_a_worker_that_runs_other_code(files, cluster, tmp_path):
    line = refused(files, cluster, "evaluate", "--variant", "vae", "--seed", "0")[-1]
    assert line.startswith("evaluate: ") and REFUSED.search(line)
    cluster["FLOWVAE_STORAGE"] = str(tmp_path / "storage")  # without rows of trials that ran already
    lines = refused(files, cluster, "study", "--name", "depth")
    assert sum(bool(REFUSED.search(line)) for line in lines) == 3  # trials
    assert lines[-1].startswith("study: no trial of depth finished")


def test_a_cluster_with_another_version_of_ray_or_python_is_one_line(files, cluster, tmp_path):
    """By a Ray that says so: its version is compared in the driver."""
    (files / "sitecustomize.py").write_text("import ray; ray.__version__ = '2.59.0'\n")
    variables = cluster | NO_PROXY | {"PYTHONPATH": f"{files}:{ROOT}"}
    ran = stage(files, "train", "--variant", "vae", "--seed", "0", **variables)
    assert ran.returncode == 1
    line = ran.stderr.strip().splitlines()[-1]
    assert line.startswith("train: RAY_ADDRESS: ") and "cannot be used (Version mismatch" in line


def test_what_is_sent_is_what_this_process_runs():
    with sent_code() as environment:
        for package in PACKAGES:
            name = [package.__name__]
            sent = code_hash(name, Path(environment["working_dir"]))
            assert sent == code_hash(name, folder_of(package).parent)
