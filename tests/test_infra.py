"""Manifests, cluster files and deployments are valid for the tools that read them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from benchmarks.__main__ import RESULTS
from benchmarks.scaling import tables
from pipeline.workflow.settings import silence

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
    for node in ("head", "worker"):
        stop, *commands = config[f"{node}_start_ray_commands"]
        assert stop == "ray stop" and all("RAY_AUTH_MODE=token" in command for command in commands)
    check_machines(prepared)


def check_machines(prepared):
    """The head may pass the profile of the workers, which are spot machines; those with a GPU have CUDA."""
    nodes = {name: node["node_config"] for name, node in prepared["available_node_types"].items()}
    assert nodes["head"]["IamInstanceProfile"] == {"Name": "flowvae-head"}
    assert "InstanceMarketOptions" not in nodes["head"]  # it runs the driver of each job
    for name in ("cpu", "gpu"):
        assert nodes[name]["IamInstanceProfile"] == {"Name": "flowvae-s3"}
        assert nodes[name]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "pipeline.distributed.spot $RAY_HEAD_IP:6379" in prepared["worker_start_ray_commands"][-1]
    images = {
        name: node.get("docker", {}).get("worker_image") for name, node in prepared["available_node_types"].items()
    }
    assert images == {"head": None, "cpu": None, "gpu": prepared["docker"]["image"].replace(":latest", ":cuda")}


def test_workers_with_a_gpu_have_the_image_with_cuda():
    for path in KUBERAY:
        for group in cluster_of(load(path))["workerGroupSpecs"]:
            for container in group["template"]["spec"]["containers"]:
                has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
                assert container["image"].endswith(":cuda" if has_gpu else ":latest")


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


def test_one_place_sets_how_often_runs_send_heartbeats():
    """Prefect's table in pyproject.toml, from which the automation takes the time without one as well."""
    assert "[tool.prefect.flows]\nheartbeat_frequency = 30 " in (ROOT / "pyproject.toml").read_text()
    ran = run_python("from pipeline.workflow.settings import silence; print(silence())", ROOT)
    assert ran.stdout == "90\n", ran.stderr
    for path in (*PREFECT.values(), ROOT / "infra/prefect/up.py"):
        assert "HEARTBEAT" not in path.read_text()


def run_python(text, folder):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-c", text]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_stages_of_deployments_have_a_limit_that_is_shorter_than_the_time_between_two_runs():
    for path in PREFECT.values():
        deployments = deployments_of(path)
        assert 0 < deployments["nightly"]["parameters"]["stage_timeout"] < 86400
        assert all(deployment["parameters"]["stage_timeout"] > 0 for deployment in deployments.values())


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
    source = [{"secretRef": {"name": "flowvae-s3"}}]
    for path in KUBERAY:
        cluster = cluster_of(load(path))
        for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
            assert all(each["envFrom"] == source for each in group["template"]["spec"]["containers"])
    for path in (*KUBERAY, ROOT / "infra/prefect/kubernetes.yaml"):
        assert "AWS_" not in "".join(line for line in path.read_text().splitlines() if not line.startswith("#"))


@pytest.mark.parametrize("text", ["", "Unknown work pool type", "[]", '{"job_configuration": {}}'])
def test_a_template_that_is_none_is_one_line(tmp_path, text):
    ran = run_script("kubernetes_pool.py", tmp_path, input=text)
    assert ran.returncode == 1 and not ran.stdout
    (line,) = ran.stderr.splitlines()
    assert line.startswith("kubernetes_pool: expected the output of prefect work-pool get-default-base-job-template")


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
    automations = load_text(text.replace("SILENCE", str(silence())))
    for automation in automations:
        for action in automation["actions"]:
            if action["type"] == "call-webhook":
                action["block_document_id"] = "00000000-0000-0000-0000-000000000000"
        AutomationCore.model_validate(automation)
    assert [automation["name"] for automation in automations] == [
        "flowvae-crashed", "flowvae-failed", "flowvae-refused"
    ]  # fmt: skip


def run_script(name, folder, input="", **settings):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | settings
    script = [sys.executable, str(ROOT / "infra/prefect" / name)]
    return subprocess.run(script, input=input, cwd=folder, env=environment, capture_output=True, text=True, check=False)


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


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:9/api", "PREFECT_API_URL 'http://127.0.0.1:9/api': "),
        ("", "PREFECT_API_URL: expected the address of a Prefect server, got nothing"),
    ],
)
def test_automations_without_a_server_are_one_line(tmp_path, address, message):
    home = str(tmp_path / "home")
    ran = run_script("automations.py", tmp_path, PREFECT_API_URL=address, NO_PROXY="127.0.0.1", PREFECT_HOME=home)
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"automations: {message}")
