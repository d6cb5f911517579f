"""What infra/prefect declares on a real server with a login: automations, and the pool of Kubernetes."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from orchestra import Orchestra, with_infra
from project import ROOT, command

from pipeline.workflow.settings import guarded, kept_login, silence

pytestmark = pytest.mark.slow
ADDRESS = "http://127.0.0.1:9/hook-that-is-secret"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a login and protection against forged requests, and no worker."""
    project = tmp_path_factory.mktemp("declared") / "project"
    project.mkdir()
    orchestra = Orchestra(with_infra(project), webhook="")
    login = kept_login(project.parent / "login")
    orchestra.settings |= guarded(orchestra.api.removesuffix("/api"), login)
    orchestra.log_in(login)
    with ExitStack() as stack:
        orchestra._start(stack, project, "server", "start", "--host", "127.0.0.1", "--port", str(orchestra.port))
        orchestra.wait_for_server()
        yield orchestra


def declare(server, **changes):
    script = (sys.executable, "infra/prefect/automations.py")
    return command(server.project, *script, **(server.settings | changes | {"PYTHONPATH": str(ROOT)})).stdout


def automations(server):
    found = server.post("/automations/filter")
    assert len({automation["name"] for automation in found}) == len(found)
    return {automation["name"]: automation for automation in found}


def test_automations_are_declared_once_and_follow_the_file(server):
    assert "flowvae-failed is skipped; set FLOWVAE_WEBHOOK_URL" in declare(server)
    before = automations(server)
    assert before.keys() == {"flowvae-crashed"}
    assert before["flowvae-crashed"]["trigger"]["within"] == silence()
    declare(server, FLOWVAE_WEBHOOK_URL=ADDRESS)
    first = automations(server)
    assert first.keys() == {"flowvae-crashed", "flowvae-failed", "flowvae-refused"}
    assert first["flowvae-crashed"] == before["flowvae-crashed"]
    block = server.get("/block_types/slug/webhook/block_documents/name/flowvae-webhook")
    assert ADDRESS not in json.dumps(block)
    assert first["flowvae-failed"]["actions"][0]["block_document_id"] == block["id"]
    declare(server)
    declare(server, FLOWVAE_WEBHOOK_URL=f"{ADDRESS}/2")
    assert automations(server) == first  # with the times at which they were changed
    server.prefect("automation", "pause", "flowvae-failed")
    change(server, first["flowvae-failed"]["id"])
    declare(server)
    second = automations(server)
    assert second["flowvae-crashed"] == first["flowvae-crashed"]
    assert not second["flowvae-failed"].pop("enabled") and first["flowvae-failed"].pop("enabled")
    assert content(second["flowvae-failed"]) == content(first["flowvae-failed"])


def test_a_wrong_login_is_one_line(server):
    settings = server.settings | {"PREFECT_API_AUTH_STRING": "flowvae:wrong", "PYTHONPATH": str(ROOT)}
    ran = command(server.project, sys.executable, "infra/prefect/automations.py", check=False, **settings)
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert "401; set PREFECT_API_AUTH_STRING to its login, or PREFECT_API_KEY for Prefect Cloud" in line


def change(server, automation):
    """Change its description, as another version of the file would, and make a second one of its name."""
    known = server.get(f"/automations/{automation}")
    path = Path(server.project.parent / "changed.json")
    path.write_text(json.dumps(known | {"description": "another"}))
    server.prefect("automation", "update", "--id", automation, "--from-file", str(path))
    server.prefect("automation", "create", "--from-file", str(path))


def content(automation):
    trigger = {name: value for name, value in automation["trigger"].items() if name != "id"}
    return {name: automation[name] for name in ("name", "description", "actions", "tags")} | {"trigger": trigger}


def test_the_template_of_kubernetes_is_that_of_prefect_with_a_secret(server):
    own = server.prefect("work-pool", "get-default-base-job-template", "--type", "kubernetes")
    script = str(ROOT / "infra/prefect/kubernetes_pool.py")
    pool = server.project.parent / "pool.json"
    pipe = f"{sys.executable} -m prefect work-pool get-default-base-job-template --type kubernetes"
    command(server.project, "sh", "-c", f"{pipe} | {sys.executable} {script} > {pool}", **server.settings)
    server.prefect(
        "work-pool", "create", "flowvae-kubernetes", "--type", "kubernetes", "--base-job-template", str(pool)
    )
    template = server.get("/work_pools/flowvae-kubernetes")["base_job_template"]
    (container,) = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    assert container.pop("envFrom") == [{"secretRef": {"name": "flowvae-s3"}}]
    assert template == json.loads(own)
