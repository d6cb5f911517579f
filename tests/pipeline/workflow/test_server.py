"""Who may use the server of `make prefect`, and what a second start keeps."""

import os
import stat
import sys
from pathlib import Path

import pytest
import requests
from killing import NO_PROXY
from orchestra import Orchestra, with_infra
from project import command, commit, copy_project

EVIL = "http://evil.example"
QUICK = """
  quick:
    cmd: echo done > quick.txt
    outs: [quick.txt]
"""


@pytest.fixture(scope="module")
def orchestra(tmp_path_factory):
    """Prefect for a project with a stage that takes no time; it is not started."""
    project = copy_project(tmp_path_factory.mktemp("server") / "project", git=True)
    path = project / "dvc.yaml"
    path.write_text(path.read_text().replace("stages:", "stages:" + QUICK, 1))
    commit(project)
    return Orchestra(with_infra(project), webhook="")


def login_file(orchestra):
    return Path(orchestra.settings["PREFECT_HOME"]) / "login"


def schedules(orchestra):
    names = ("reproduce/nightly", "drift-check/drift-check")
    return [orchestra.get(f"/deployments/name/{name}")["schedules"] for name in names]


@pytest.mark.slow
def test_only_the_owner_gets_in_and_a_second_start_keeps_what_the_user_changed(orchestra):
    output = orchestra.project.parent / "project.up.txt"
    with orchestra.up():
        login = login_file(orchestra).read_text()
        assert stat.S_IMODE(login_file(orchestra).stat().st_mode) == 0o600
        assert str(login_file(orchestra)) in output.read_text() and login.strip() not in output.read_text()
        check_that_strangers_are_refused(orchestra)
        check_that_pages_of_others_are_refused(orchestra)
        check_that_the_page_of_the_server_works(orchestra)
        run = orchestra.run("reproduce/on-demand", targets=["quick"])
        assert run["state"]["type"] == "COMPLETED", orchestra.log(run["id"])
        ((nightly,), (hourly,)) = schedules(orchestra)
        assert nightly["active"] and hourly["active"]
        orchestra.prefect("deployment", "schedule", "pause", "reproduce/nightly", nightly["id"])
        orchestra.prefect("work-pool", "pause", "flowvae")
    with orchestra.up():
        assert login_file(orchestra).read_text() == login
        ((second_nightly,), (second_hourly,)) = schedules(orchestra)
        assert not second_nightly["active"] and second_hourly["active"]
        assert second_hourly["schedule"] == hourly["schedule"]
        assert orchestra.get("/work_pools/flowvae")["is_paused"]
        check_mistakes_of_clients(orchestra)


def check_that_strangers_are_refused(orchestra):
    stranger = requests.Session()
    stranger.trust_env = False
    for path in ("/flows/filter", "/deployments/filter", "/logs/filter"):
        assert stranger.post(f"{orchestra.api}{path}", json={}, timeout=60).status_code in (401, 403)
    assert stranger.get(f"{orchestra.api}/deployments/name/reproduce/on-demand", timeout=60).status_code == 401
    assert stranger.get(f"{orchestra.api}/csrf-token?client=stranger", timeout=60).status_code == 401


def check_that_pages_of_others_are_refused(orchestra):
    """Even in a browser that knows the login: with it, the request is one of a forged form."""
    deployment = orchestra.get("/deployments/name/reproduce/on-demand")["id"]
    address = f"{orchestra.api}/deployments/{deployment}/create_flow_run"
    before = orchestra.post("/flow_runs/count")
    body = '{"parameters": {"targets": ["quick"]}, "job_variables": {"command": "touch evil.txt"}}'
    headers = {"Origin": EVIL, "Content-Type": "text/plain"}
    with requests.Session() as page:
        page.trust_env = False
        assert page.post(address, body, headers=headers, timeout=60).status_code in (401, 403)
        page.auth = orchestra.session.auth
        assert page.post(address, body, headers=headers, timeout=60).status_code == 403
        asked = {"Origin": EVIL, "Access-Control-Request-Method": "POST"}
        preflight = page.options(address, headers=asked, timeout=60)
        assert not preflight.ok and "Access-Control-Allow-Origin" not in preflight.headers
        read = page.get(f"{orchestra.api}/version", headers={"Origin": EVIL}, timeout=60)
        assert "Access-Control-Allow-Origin" not in read.headers
    assert orchestra.post("/flow_runs/count") == before
    assert not (orchestra.project / "evil.txt").exists()


def check_that_the_page_of_the_server_works(orchestra):
    own = orchestra.api.removesuffix("/api")
    answer = orchestra.session.get(f"{orchestra.api}/version", headers={"Origin": own}, timeout=60)
    assert answer.ok and answer.headers["Access-Control-Allow-Origin"] == own
    settings = orchestra.session.get(f"{own}/ui-settings", timeout=60).json()
    assert (settings["auth"], settings["csrf_enabled"], settings["api_url"]) == ("BASIC", True, orchestra.api)


def check_mistakes_of_clients(orchestra):
    """A missing login is one line; with it, a run in a terminal is shown by the server."""
    for script, prefix in (
        (["-m", "pipeline.workflow", "quick"], "workflow"),
        (["infra/prefect/automations.py"], "auto"),
    ):
        settings = orchestra.settings | {"PREFECT_API_AUTH_STRING": "flowvae:wrong"}
        ran = command(orchestra.project, sys.executable, *script, check=False, **settings)
        assert ran.returncode == 1
        (line,) = ran.stderr.splitlines()
        assert line.startswith(prefix) and "401" in line and "PREFECT_API_AUTH_STRING" in line
    command(orchestra.project, sys.executable, "-m", "pipeline.workflow", "quick", **orchestra.settings)
    log = (orchestra.project / "logs/workflow.log").read_text()
    runs = orchestra.post("/flow_runs/filter", flow_runs={"state": {"type": {"any_": ["COMPLETED"]}}})
    assert any(f"Flow run {run['name']!r}" in log for run in runs)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/api", "127.0.0.1:9", "http://"])
def test_a_server_that_does_not_answer_is_one_line(tmp_path, address):
    project = copy_project(tmp_path / "project", git=False)
    settings = NO_PROXY | {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": address}
    ran = command(project, sys.executable, "-m", "pipeline.workflow", check=False, **settings)
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"workflow: PREFECT_API_URL '{address}'"), ran.stderr


def test_a_login_that_others_could_read_is_replaced(tmp_path):
    from pipeline.workflow.settings import kept_login

    path = tmp_path / "home/login"
    first = kept_login(path)
    assert kept_login(path) == first
    os.chmod(path, 0o644)
    second = kept_login(path)
    assert second != first and kept_login(path) == second
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
