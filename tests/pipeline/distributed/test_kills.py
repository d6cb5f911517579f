"""Runs that are killed by SIGKILL at random moments end with the same bytes as uninterrupted runs."""

import json
import random
import secrets
import shutil
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
from killing import (
    KEY,
    NO_PROXY,
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
from project import command, commit, edit_params, environment, fill, stage

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


@pytest.mark.slow
def test_another_clone_resumes_from_the_same_storage(copy, tmp_path):
    """As a nightly run does, whose clone is gone after it died."""
    slow_down(copy, 10)
    commit(copy)
    first, second = (clone(copy, tmp_path / name) for name in ("first", "second"))
    expected = undisturbed(second)
    shared = {"FLOWVAE_STORAGE": str(tmp_path / "shared/checkpoints")}
    process = start(first, **shared)
    assert wait_for(lambda: has_checkpoint(tmp_path / "shared"), process)
    kill_group(process)
    assert not (first / "checkpoints").exists()
    shutil.rmtree(first)
    finish(start(second, **shared), second)
    assert results(second) == expected
    assert times_resumed(second) == 1
    assert not has_checkpoint(tmp_path / "shared")


def clone(project, target):
    """A git clone of the project, with its prepared data."""
    command(project, "git", "clone", "--quiet", str(project), str(target))
    shutil.copytree(project / "data/prepared", target / "data/prepared")
    return target


@contextmanager
def instance_metadata():
    """The metadata of a spot machine on EC2, as far as `pipeline.distributed.spot` reads them.

    Yields:
        Their address, and a dictionary: once it has a "time", the machine is marked to be stopped then.
    """
    mark, token = {}, secrets.token_hex(8)

    class Metadata(BaseHTTPRequestHandler):
        def do_PUT(self):
            is_known = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            self.answer(200 if is_known else 404, token)

        def do_GET(self):
            if self.headers["X-aws-ec2-metadata-token"] != token:
                return self.answer(401, "")
            is_marked = self.path == "/latest/meta-data/spot/instance-action" and mark
            self.answer(200 if is_marked else 404, json.dumps({"action": "terminate", **mark}))

        def answer(self, status, text):
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/latest", mark
        server.shutdown()


NODE_OF_SPOT = """
import sys
import ray

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
print(next(node["NodeID"] for node in ray.nodes() if node["Alive"] and "spot" in node["Resources"]))
"""


@pytest.mark.slow
def test_a_spot_machine_that_is_about_to_be_reclaimed(files, tmp_path):
    """At the notice the workers write a checkpoint, none of which is due; they resume from it on another node."""
    slow_down(files, 70)  # the notice takes up to 20 s
    never = {"FLOWVAE_CHECKPOINT_EVERY": "1000000 steps", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"}
    expected = undisturbed(files, *TWO, **never, FLOWVAE_CPUS_PER_WORKER="1")
    (tmp_path / "token").write_text(secrets.token_hex(32))
    address = f"127.0.0.1:{free_port()}"
    cluster = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    with ExitStack() as stack:

        def start_node(name, *arguments):
            node = stack.enter_context(ray_node(tmp_path / name, *arguments))
            assert wait_for(lambda: "Ray runtime started" in (tmp_path / name / "output.txt").read_text(), node)
            return node

        port = address.rpartition(":")[2]
        start_node("head", "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--dashboard-port=0")
        leaving = start_node("spot", f"--address={address}", '--resources={"spot": 1}')
        node_id = command(files, sys.executable, "-c", NODE_OF_SPOT, address, **NO_PROXY, **cluster).stdout.strip()
        metadata, mark = stack.enter_context(instance_metadata())
        watch = ("-m", "pipeline.distributed.spot", address, "--node-id", node_id, "--metadata", metadata)
        output = stack.enter_context((tmp_path / "watcher.txt").open("wb"))
        watcher = subprocess.Popen(
            [sys.executable, *watch], cwd=files, env=environment(files, **NO_PROXY, **cluster),
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        stack.callback(kill_group, watcher)
        log = files / f"logs/train/{KEY}.log"
        before = log.read_text()
        process = start(files, *TWO, **cluster, **never, FLOWVAE_STORAGE=str(files / "checkpoints"))
        try:
            assert wait_for(lambda: "epoch 2/" in log.read_text()[len(before) :], process)
            assert watcher.poll() is None and not has_checkpoint(files)
            mark["time"] = f"{datetime.now(timezone.utc) + timedelta(seconds=60):%Y-%m-%dT%H:%M:%SZ}"
            assert wait_for(lambda: has_checkpoint(files), process)
            assert watcher.wait(60) == 0, (tmp_path / "watcher.txt").read_text()
            time.sleep(1)  # until rank zero has finished the file
            kill_group(leaving)
            start_node("other", f"--address={address}")
            finish(process, files)
        finally:
            kill_group(process)
    assert results(files) == expected
    assert times_resumed(files) == 1
