"""Manifests, cluster files and deployments are valid for the tools that read them."""

import json
import os
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from ruamel.yaml import YAML

from benchmarks.__main__ import RESULTS
from benchmarks.scaling import tables
from pipeline.workflow.settings import HEARTBEAT, SILENCE

ROOT = Path(__file__).parents[1]
KUBERAY = sorted((ROOT / "infra/kuberay").glob("*.yaml"))
CLUSTER_KEYS = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
GROUP_KEYS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
JOB_KEYS = {
    "entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit",
    "runtimeEnvYAML", "rayClusterSpec",
}  # fmt: skip


def load(path):
    return YAML(typ="safe", pure=True).load(path.read_text())


def cluster_of(manifest):
    return manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"]["rayClusterSpec"]


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_manifests_have_only_known_keys(path):
    manifest = load(path)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert manifest["kind"] in ("RayCluster", "RayJob")
    if manifest["kind"] == "RayJob":
        assert manifest["spec"].keys() <= JOB_KEYS
        assert "FLOWVAE_STORAGE" in load_text(manifest["spec"]["runtimeEnvYAML"])["env_vars"]
    cluster = cluster_of(manifest)
    assert cluster.keys() <= CLUSTER_KEYS
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert group.keys() <= GROUP_KEYS
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        for container in group["template"]["spec"]["containers"]:
            assert {"name", "image", "resources"} <= container.keys()
            assert "env" not in container  # credentials come from a Secret


def load_text(text):
    return YAML(typ="safe", pure=True).load(text)


def test_manifests_have_the_version_of_ray_that_is_installed():
    (version,) = (
        line.partition("==")[2]
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.startswith("ray==")
    )
    assert {cluster_of(load(path))["rayVersion"] for path in KUBERAY} == {version}


def test_ray_accepts_the_cluster_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load(ROOT / "infra/cluster.yaml")
    prepared = prepare_config(json.loads(json.dumps(config)))
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"head", "cpu", "gpu"}
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert all("RAY_AUTH_MODE=token" in config[f"{node}_start_ray_commands"][-1] for node in ("head", "worker"))


def test_the_tables_of_the_scaling_page_are_those_of_the_measurements():
    assert tables(json.loads(RESULTS.read_text())) in (ROOT / "infra/scaling.md").read_text()


PREFECT = {path.stem: path for path in (ROOT / "infra/prefect").glob("*.yaml") if path.stem != "automations"}
POOLS = {"local": "process", "prefect": "process", "docker": "docker", "kubernetes": "kubernetes"}


def deployments_of(path):
    return {deployment["name"]: deployment for deployment in load(path)["deployments"]}


def test_all_files_declare_the_same_deployments():
    """Except for where they run, and for the parameters of runs in clones."""
    assert PREFECT.keys() == POOLS.keys()
    differ = {"work_pool", "parameters"}
    (expected, *others) = (
        {name: {key: value for key, value in deployment.items() if key not in differ} for name, deployment in each}
        for each in (deployments_of(path).items() for path in PREFECT.values())
    )
    assert expected.keys() == {"nightly", "on-demand", "drift-check"}
    assert all(other == expected for other in others)
    for deployment in expected.values():
        assert deployment["concurrency_limit"]["limit"] == 1
        assert deployment["concurrency_limit"]["collision_strategy"] in ("CANCEL_NEW", "ENQUEUE")


@pytest.mark.parametrize("name", POOLS)
def test_parameters_and_job_variables_of_deployments_exist(name):
    from prefect.server.api import collections_data

    from pipeline.workflow import workflows

    collections = json.loads((Path(collections_data.__path__[0]) / "views/aggregate-worker-metadata.json").read_text())
    (pool,) = (workers[POOLS[name]] for workers in collections.values() if POOLS[name] in workers)
    known = pool["default_base_job_configuration"]["variables"]["properties"]
    for deployment in deployments_of(PREFECT[name]).values():
        assert deployment["work_pool"].get("job_variables", {}).keys() <= known.keys()
        file, function = deployment["entrypoint"].split(":")
        assert (ROOT / file).is_file()
        getattr(workflows, function).validate_parameters(deployment.get("parameters", {}))


def test_all_runs_send_heartbeats_as_often_as_the_automation_expects():
    """Runs of deployments by their job variables, and runs in a terminal by the same setting."""
    for path in PREFECT.values():
        for deployment in deployments_of(path).values():
            assert deployment["work_pool"]["job_variables"]["env"].items() >= HEARTBEAT.items(), path
    (frequency,) = HEARTBEAT.values()
    assert int(frequency) * 3 <= SILENCE


def test_schedules_have_names_and_intervals_have_anchors():
    """Otherwise deploying again makes new schedules, which are active and start at another minute."""
    for path in PREFECT.values():
        for deployment in deployments_of(path).values():
            for schedule in deployment.get("schedules", ()):
                assert schedule["slug"] and ("interval" not in schedule or schedule["anchor_date"])


def test_a_nightly_run_in_a_clone_pulls_and_pushes():
    for name in POOLS.keys() - {"local"}:
        nightly = deployments_of(PREFECT[name])["nightly"]["parameters"]
        assert nightly["pull"] and nightly["push"] and nightly["experiment"]


def test_keys_on_kubernetes_come_from_a_secret():
    from prefect.server.api import collections_data

    template = json.loads((ROOT / "infra/prefect/kubernetes-pool.json").read_text())
    (container,) = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    source = [{"secretRef": {"name": "flowvae-s3"}}]
    assert container.pop("envFrom") == source
    views = json.loads((Path(collections_data.__path__[0]) / "views/aggregate-worker-metadata.json").read_text())
    assert template == views["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"]  # else Prefect's own
    for path in KUBERAY:
        cluster = cluster_of(load(path))
        for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
            assert all(each["envFrom"] == source for each in group["template"]["spec"]["containers"])
    for path in (*KUBERAY, ROOT / "infra/prefect/kubernetes.yaml"):
        assert "AWS_" not in "".join(line for line in path.read_text().splitlines() if not line.startswith("#"))


def test_secrets_are_blocks():
    num_secrets = 0
    for path in PREFECT.values():
        for line in path.read_text().splitlines():
            if any(word in line.lower() for word in ("token:", "access_key_id:", "secret_access_key:", "password:")):
                assert ': "{{ prefect.blocks.secret.' in line, f"{path}: {line}"
                num_secrets += 1
    assert num_secrets


def test_prefect_accepts_the_automations():
    from prefect.events.schemas.automations import AutomationCore

    text = (ROOT / "infra/prefect/automations.yaml").read_text()
    automations = load_text(text.replace("SILENCE", str(SILENCE)))
    for automation in automations:
        for action in automation["actions"]:
            if action["type"] == "call-webhook":
                action["block_document_id"] = "00000000-0000-0000-0000-000000000000"
        AutomationCore.model_validate(automation)
    assert [automation["name"] for automation in automations] == ["flowvae-crashed", "flowvae-failed"]


def run_script(name, folder, **settings):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | settings
    script = [sys.executable, str(ROOT / "infra/prefect" / name)]
    return subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("port", "message"),
    [("taken", "is in use; stop the program that uses it"), ("x", "expected a port number, got 'x'")],
)
def test_a_port_that_is_unavailable_is_one_line(tmp_path, port, message):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = str(listener.getsockname()[1])
        ran = run_script("up.py", tmp_path, FLOWVAE_PREFECT_PORT=taken if port == "taken" else port)
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith("prefect: FLOWVAE_PREFECT_PORT: ") and message in line
    assert not list(tmp_path.iterdir())


def test_automations_without_a_server_are_one_line(tmp_path):
    ran = run_script("automations.py", tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api", NO_PROXY="127.0.0.1")
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith("automations: PREFECT_API_URL 'http://127.0.0.1:9/api': ")


def test_automations_are_declared_on_a_server_that_is_busy_for_a_while(tmp_path):
    """It answers 503, like Prefect's server while others write to its database."""
    seen = []

    class Busy(BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append(self.command)
            status = 503 if len(seen) <= 2 else 404 if self.command == "GET" else 200
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/api"
        ran = run_script("automations.py", tmp_path, PREFECT_API_URL=address, NO_PROXY="127.0.0.1")
        server.shutdown()
    assert ran.returncode == 0, ran.stderr
    assert seen[:3] == ["GET"] * 3
