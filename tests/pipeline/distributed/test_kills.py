"""Runs that are killed by SIGKILL at random moments end with the same bytes as uninterrupted runs."""

import random
import secrets
import shutil
import time
from contextlib import ExitStack

import psutil
import pytest
from killing import (
    KEY,
    VARIANT,
    a_moment,
    finish,
    free_port,
    has_checkpoint,
    kill_group,
    ray_node,
    ray_workers,
    results,
    slow_down,
    start,
    undisturbed,
    wait_for,
)
from project import edit_params, fill, stage

TWO = ("--workers", "2")
RARER = {"FLOWVAE_CHECKPOINT_EVERY": "50 steps"}  # Ray takes some tenths of a second for a checkpoint


def kill_often(project, times, *arguments, seconds, **changes):
    """Start a run several times and kill it at a random moment after its first checkpoint; let the last one finish."""
    for killed in range(times):
        started = time.time()
        process = start(project, *arguments, **changes)
        alive = wait_for(lambda since=started: has_checkpoint(project, since), process)
        a_moment(seconds)
        output = (project / "output.txt").read_text()[-3000:]
        assert alive and process.poll() is None, f"the run ended after {killed} kills: {output}"
        kill_group(process)
    finish(start(project, *arguments, **changes), project)


def times_resumed(project):
    return (project / f"logs/train/{KEY}.log").read_text().count("resumed after step")


def check_killed(project, times, *arguments, epochs, seconds, **changes):
    """Check that a run that is killed several times resumes each time, and ends like an uninterrupted one."""
    slow_down(project, epochs)
    expected = undisturbed(project, *arguments, **changes)
    kill_often(project, times, *arguments, seconds=seconds, **changes)
    assert results(project) == expected
    assert times_resumed(project) == times


def test_a_killed_process(files):
    check_killed(files, 1, epochs=10, seconds=0)


def test_a_run_of_another_configuration_is_not_resumed(files):
    slow_down(files, 10)
    process = start(files)
    assert wait_for(lambda: has_checkpoint(files), process)
    kill_group(process)
    before = list((files / "checkpoints").iterdir())
    edit_params(files, lambda params: params["training"].update(weight_decay=0.5))
    finish(start(files), files)
    assert times_resumed(files) == 0
    assert list((files / "checkpoints").iterdir()) == before


def test_a_disk_that_fills_leaves_the_last_checkpoints(files, small_disk):
    """The next run reports it in one line; once there is room, a run resumes and ends with the same bytes."""
    slow_down(files, 10)
    expected = undisturbed(files)
    shutil.rmtree(files / "checkpoints")
    (files / "checkpoints").symlink_to(small_disk)
    process = start(files)
    assert wait_for(lambda: has_checkpoint(files), process)
    kill_group(process)
    fill(small_disk)
    before = {path: path.read_bytes() for path in small_disk.rglob("*.safetensors")}
    ran = stage(files, "train", *VARIANT, FLOWVAE_CHECKPOINT_EVERY="20 steps")
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert "checkpoints/" in line
    assert "No space left on device" in line
    assert {path: path.read_bytes() for path in small_disk.rglob("*.safetensors")} == before
    (small_disk / "full").unlink()
    finish(start(files), files)
    assert results(files) == expected
    assert times_resumed(files) == 2


@pytest.mark.slow
def test_a_process_killed_many_times(files):
    check_killed(files, 10, epochs=100, seconds=1.5)


@pytest.mark.slow
def test_killed_ray_workers(files):
    """The group restarts by itself."""
    slow_down(files, 50)
    expected = undisturbed(files, *TWO, **RARER)
    process = start(files, *TWO, **RARER)
    driver = psutil.Process(process.pid)
    try:
        for kills in range(5):
            assert wait_for(lambda: has_checkpoint(files) and ray_workers(driver), process)
            assert wait_for(lambda kills=kills: times_resumed(files) >= kills, process)
            a_moment(2)
            random.choice(ray_workers(driver)).kill()
            time.sleep(2)
        finish(process, files)
    finally:
        kill_group(process)
    assert results(files) == expected
    assert times_resumed(files) == 5


@pytest.mark.slow
def test_a_killed_ray_driver(files):
    check_killed(files, 3, *TWO, epochs=50, seconds=2, **RARER)


@pytest.mark.slow
def test_a_node_that_leaves_a_cluster_of_two(files, tmp_path):
    """Each node has one CPU, so the group needs both; another node replaces the one that left."""
    slow_down(files, 50)
    expected = undisturbed(files, *TWO, **RARER, FLOWVAE_CPUS_PER_WORKER="1")
    (tmp_path / "token").write_text(secrets.token_hex(32))
    address = f"127.0.0.1:{free_port()}"
    cluster = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    cluster |= RARER | {"FLOWVAE_STORAGE": str(files / "checkpoints")}
    with ExitStack() as nodes:
        port = address.rpartition(":")[2]
        head = ("--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--dashboard-port=0")
        nodes.enter_context(ray_node(tmp_path / "head", *head))
        wait_for(lambda: "Ray runtime started" in (tmp_path / "head/output.txt").read_text())
        leaving = nodes.enter_context(ray_node(tmp_path / "second", f"--address={address}"))
        process = start(files, *TWO, **cluster)
        try:
            for i in range(2):
                assert wait_for(lambda i=i: has_checkpoint(files) and times_resumed(files) == i, process)
                a_moment(2)
                kill_group(leaving)
                time.sleep(1)
                leaving = nodes.enter_context(ray_node(tmp_path / f"node{i}", f"--address={address}"))
            finish(process, files)
        finally:
            kill_group(process)
    assert results(files) == expected
    assert times_resumed(files) == 2
