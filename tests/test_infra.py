"""Manifests and cluster files say what they should, to the tools that read them."""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from benchmarks.__main__ import RESULTS
from benchmarks.scaling import tables

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
def test_manifests_hold_known_keys_alone(path):
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


def test_manifests_name_the_version_of_ray_that_is_installed():
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


def test_the_plan_for_scale_rests_on_what_was_measured():
    assert tables(json.loads(RESULTS.read_text())) in (ROOT / "infra/scaling.md").read_text()
