"""The pipeline as a Prefect workflow: without a server, and on a real server with a real worker and schedules."""

import json
import shutil
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from killing import NO_PROXY, is_alive, slow_down, wait_for
from orchestra import Orchestra, with_infra
from project import (
    TRAINED,
    add_stage,
    command,
    commit,
    contents,
    copy_project,
    dvc,
    edit_params,
    environment,
    freeze_studies,
    ran_in,
    stages_run,
    workflow,
)

from pipeline.params.reading import load_params

FLAKY = """
  flaky:
    cmd: echo x >> ../tries.txt && test $(wc -l < ../tries.txt) -gt {failures} && echo done > flaky.txt
    outs: [flaky.txt]
"""
CHECKOUT = "dvc checkout --force --allow-missing"  # in the copy in which a run with overrides works
WAITING = """
  waiting:
    cmd: touch {folder}/begun.txt && until test -e {folder}/go.txt; do sleep 0.1; done
"""
SILENT = """
  silent:
    cmd: touch begun.txt && sleep 300
"""


@pytest.fixture(scope="module")
def orchestra(reproduced, webhook, tmp_path_factory):
    """Prefect for a project that is up to date."""
    project = shutil.copytree(reproduced.folder, tmp_path_factory.mktemp("prefect") / "project")
    freeze_studies(project)
    commit(project)
    address, _ = webhook
    orchestra = Orchestra(with_infra(project), address)
    with orchestra.up():
        yield orchestra


@pytest.fixture
def restored(orchestra):
    """The project, whose params.yaml and dvc.yaml are restored afterwards."""
    before = {name: (orchestra.project / name).read_bytes() for name in ("params.yaml", "dvc.yaml", "dvc.lock")}
    yield orchestra.project
    for name, content in before.items():
        (orchestra.project / name).write_bytes(content)


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory):
    """PREFECT_HOME without a server; it is shared, because creating its database takes a while."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def project(tmp_path):
    """A project in which nothing has run yet."""
    return copy_project(tmp_path / "project", git=True)


def test_without_a_server_it_does_what_dvc_repro_does(copy, prefect_home):
    """It runs only stale stages, several at a time; a second run does nothing."""
    edit_params(copy, lambda params: params["variants"]["planar-4"]["posterior"].update(num_transforms=5))
    by_dvc = shutil.copytree(copy, copy.parent / "by-dvc")
    dvc(by_dvc, "repro")
    ran = workflow(copy, prefect_home)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran_in(ran) == {"fetch", "train@planar-4-0", "evaluate@planar-4-0", "interpolate", "report"}
    for name in ("dvc.lock", "reports/results.md", "metrics/planar-4-0.json"):
        assert (copy / name).read_bytes() == (by_dvc / name).read_bytes(), name
    assert stages_run(dvc(copy, "repro")) == set()
    again = workflow(copy, prefect_home)
    assert again.returncode == 0 and ran_in(again) == {"fetch"}
    assert "stages up to date, 1 ran in " in again.stdout
    (results,) = copy.joinpath("reports/results.md").read_text().split("\n\n## ")[:1]
    table = again.stdout.partition("\n\nvariant")[2].partition("\n\n")[0]
    rows = [line.split("|")[1].strip() for line in results.splitlines() if line.startswith("|")][2:]
    assert [line.split()[0] for line in table.splitlines()[1:]] == rows
    assert f"{(copy / 'reports/index.html').as_uri()}#paths" in again.stdout


@pytest.mark.slow
def test_an_edit_of_params_during_a_run_with_overrides(copy, prefect_home):
    """The edit stays, the values go into the copy and the experiment only; dvc exp list shows that in the project."""
    add_stage(copy, WAITING.format(folder=copy.parent))
    commit(copy)
    before = contents(copy)
    arguments = ["-S", "training.epochs=2", "--experiment", "mine", "train@vae-0", "waiting"]
    settings = environment(copy, **NO_PROXY, PREFECT_HOME=str(prefect_home))
    process = subprocess.Popen([sys.executable, "-m", "pipeline.workflow", *arguments], cwd=copy, env=settings,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    wait_for((copy.parent / "begun.txt").exists, process)
    edited = (copy / "params.yaml").read_text() + "# mine\n"
    (copy / "params.yaml").write_text(edited)
    (copy.parent / "go.txt").touch()
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (line,) = (line for line in output.splitlines() if "the results and the report of this run are in" in line)
    assert contents(copy) == before | {"params.yaml": edited.encode()}
    folder = copy / line.split()[-1]
    assert load_params(folder / "params.yaml").training.epochs == 2
    assert "mine" in dvc(copy, "exp", "list").stdout
    command(copy, "git", "checkout", "--quiet", ".")
    dvc(copy, "exp", "apply", "mine")
    assert (copy / "models/vae-0/model.safetensors").read_bytes() == (
        folder / "models/vae-0/model.safetensors"
    ).read_bytes()
    assert load_params(copy / "params.yaml").training.epochs == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-S", "training.epochs=two"), "--set-param training.epochs=two: training.epochs: expected a valid integer"),
        (("nothing",), "Stage 'nothing' not found inside 'dvc.yaml'"),
    ],
)
def test_mistakes_are_one_line(project, prefect_home, arguments, message):
    before = (project / "params.yaml").read_bytes()
    ran = workflow(project, prefect_home, *arguments)
    assert ran.returncode == 1
    (line,) = (line for line in ran.stderr.splitlines() if line.startswith("workflow: "))
    assert message in line
    assert "Traceback" not in ran.stdout + ran.stderr
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seeds", 0, "params.yaml: seeds: expected a list, got 0"),
        ("seeds", None, "params.yaml: seeds: expected a list, got null (nothing after the colon?)"),
        ("studies", None, "params.yaml: studies: expected a mapping (key: value), got null (nothing after the colon?)"),
    ],
)
def test_values_that_dvc_cannot_use_are_named(copy, prefect_home, key, value, message):
    """DVC's own message for them is: 'Value' object is not iterable."""
    edit_params(copy, lambda params: params.update({key: value}))
    ran = workflow(copy, prefect_home)
    assert ran.returncode == 1
    assert f"workflow: {message}" in ran.stderr.splitlines() and "Traceback" not in ran.stdout + ran.stderr


@pytest.mark.slow
def test_schedules_fire(orchestra):
    """A cron schedule and an interval: both runs complete, and the drift check finds no drift."""
    orchestra.prefect("deployment", "schedule", "create", "reproduce/nightly", "--cron", "* * * * *", "--replace", "-y")
    orchestra.prefect(
        "deployment", "schedule", "create", "drift-check/drift-check", "--interval", "30", "--replace", "-y"
    )
    fired = {}

    def both_completed():
        runs = orchestra.post("/flow_runs/filter", flow_runs={"state": {"type": {"any_": ["COMPLETED", "FAILED"]}}})
        fired.update({run["parameters"].get("retries") is None: run for run in runs if run["auto_scheduled"]})
        return len(fired) == 2

    orchestra.wait_for(both_completed)
    for name in ("reproduce/nightly", "drift-check/drift-check"):
        orchestra.prefect("deployment", "schedule", "clear", name, "-y")
    assert [run["state"]["name"] for run in fired.values()] == ["Completed"] * 2
    nightly, check = fired[False], fired[True]
    assert orchestra.states(nightly["id"])["train@vae-0"] == "Unchanged"
    assert orchestra.states(check["id"])["evaluate@vae-0"] == "Completed"
    artifacts = {"flow_run_id": {"any_": [check["id"]]}, "key": {"any_": ["drift"]}}
    (table,) = orchestra.post("/artifacts/filter", artifacts=artifacts)
    assert not any(row["drifted"] for row in json.loads(table["data"]))


@pytest.mark.slow
def test_an_override_trains_what_it_changes_and_then_nothing(orchestra, restored):
    before = contents(restored)
    override = ["variants.planar-4.posterior.num_transforms=4"]
    run = orchestra.run("reproduce/on-demand", set_params=override)
    assert run["state"]["type"] == "COMPLETED", orchestra.log(run["id"])
    ran = {name for name, state in orchestra.states(run["id"]).items() if state == "Completed"}
    assert ran == {CHECKOUT, "fetch", "train@planar-4-0", "evaluate@planar-4-0", "interpolate", "report"}
    line = "the results and the report of this run are in .dvc/tmp/overrides/variants-planar-4-"
    orchestra.wait_for(lambda: line in orchestra.log(run["id"]), 30)  # logs arrive a little later
    second = orchestra.run("reproduce/on-demand", set_params=override)
    assert second["state"]["type"] == "COMPLETED"
    others = {name for name, state in orchestra.states(second["id"]).items() if state != "Unchanged"}
    assert others == {CHECKOUT, "fetch"}
    assert contents(restored) == before
    kinds = {
        (artifact["key"], artifact["type"])
        for artifact in orchestra.post("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}})
    }
    assert {("metrics", "table"), ("figures", "markdown"), ("results", "markdown"), ("index", "markdown")} <= kinds
    assert ("train-planar-4-0", "progress") in kinds


@pytest.mark.slow
def test_a_stage_that_fails_twice_and_then_succeeds(orchestra, restored):
    """The workflow needs no change for a new stage of dvc.yaml."""
    add_stage(restored, FLAKY.format(failures=2))
    run = orchestra.run("reproduce/on-demand", targets=["flaky"], retries=2, retry_delay=1)
    assert run["state"]["type"] == "COMPLETED", orchestra.log(run["id"])
    assert (restored.parent / "tries.txt").read_text().split() == ["x"] * 3
    assert orchestra.tasks(run["id"])["flaky"]["run_count"] == 3


@pytest.mark.slow
def test_a_failed_stage_stops_what_depends_on_it_and_is_notified(orchestra, restored, webhook):
    edit_params(restored, lambda params: params["training"].update(learning_rate=1e30, max_grad_norm=1e38))
    edit_params(restored, lambda params: params["variants"]["planar-4"]["posterior"].update(num_transforms=6))
    (restored / "models/planar-4-0/config.json").unlink()
    run = orchestra.run("reproduce/on-demand")
    assert run["state"]["type"] == "FAILED"
    assert "train@planar-4-0: dvc repro --single-item train@planar-4-0 failed with exit code" in run["state"]["message"]
    assert "loss is not finite" in run["state"]["message"]
    tasks = orchestra.states(run["id"])
    assert {name for name, state in tasks.items() if state == "Failed"} == TRAINED
    assert tasks["report"] == "NotReady"
    assert "Traceback" not in orchestra.log(run["id"])
    _, messages = webhook
    orchestra.wait_for(lambda: any("loss is not finite" in message["text"] for message in messages), 30)


@pytest.mark.slow
def test_a_run_that_drifts_fails_with_the_difference(orchestra, restored):
    path = restored / "metrics/vae-0.json"
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps(metrics | {"nll_nats": metrics["nll_nats"] - 50}))
    commit(restored)
    run = orchestra.run("drift-check/drift-check")
    assert run["state"]["type"] == "FAILED"
    assert "metrics/vae-0.json: nll_nats: " in run["state"]["message"]
    assert "differs by 50" in run["state"]["message"]
    path.write_text(json.dumps(metrics))
    commit(restored)


def start_long_training(orchestra, epochs=200):
    """Start a run, wait until it has trained for a while, and return its id."""
    slow_down(orchestra.project, epochs)
    run = orchestra.trigger("reproduce/on-demand", targets=["train@real-nvp-2-0"])
    orchestra.wait_for(lambda: any((orchestra.project / "checkpoints").rglob("*.safetensors")))
    assert orchestra.processes()
    return run


def finish_long_training(orchestra):
    """Check that the next run resumes the training."""
    run = orchestra.run("reproduce/on-demand", targets=["train@real-nvp-2-0"])
    assert run["state"]["type"] == "COMPLETED", orchestra.log(run["id"])
    assert "resumed after step" in (orchestra.project / "logs/train/real-nvp-2-0.log").read_text()


@pytest.mark.slow
def test_a_cancelled_run_leaves_no_children_and_the_next_one_resumes(orchestra, restored):
    run = start_long_training(orchestra)
    orchestra.prefect("flow-run", "cancel", run)
    orchestra.wait_for(lambda: orchestra.state(run)["type"] in ("CANCELLING", "CANCELLED"))
    started = time.monotonic()
    orchestra.wait_for(lambda: not orchestra.processes(), 60)
    assert time.monotonic() - started < 10
    assert orchestra.ended(run)["state"]["type"] == "CANCELLED"
    finish_long_training(orchestra)


@pytest.mark.slow
def test_concurrent_runs(orchestra):
    """A nightly run is cancelled if another one is running; a run on demand waits for the other."""
    first, second = (orchestra.trigger("reproduce/nightly") for _ in range(2))
    states = {orchestra.ended(run)["state"]["type"] for run in (first, second)}
    assert states == {"COMPLETED", "CANCELLED"}
    runs = [orchestra.ended(run) for run in [orchestra.trigger("reproduce/on-demand") for _ in range(2)]]
    assert [run["state"]["type"] for run in runs] == ["COMPLETED"] * 2
    early, late = sorted(runs, key=lambda run: run["start_time"])
    assert early["end_time"] <= late["start_time"]


@pytest.mark.slow
def test_a_run_killed_with_its_worker_is_marked_crashed_and_the_next_one_resumes(reproduced, webhook, tmp_path):
    """A server that is restarted keeps its runs, and running ones continue."""
    project = shutil.copytree(reproduced.folder, tmp_path / "project")
    address, messages = webhook
    orchestra = Orchestra(with_infra(project), address)
    with orchestra.up() as up:
        run = start_long_training(orchestra)
        (worker,) = (child for child in psutil.Process(up.pid).children() if "worker" in child.cmdline())
        for process in (worker, *worker.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # children on a leash end with the run
                process.kill()
        orchestra.wait_for(lambda: not orchestra.processes(), 30)
        assert orchestra.ended(run)["state"]["type"] == "CRASHED"
        orchestra.wait_for(lambda: any("no heartbeat" in message["text"] for message in messages), 30)
        finish_long_training(orchestra)
    with orchestra.up() as up:
        assert orchestra.ended(run)["state"]["type"] == "CRASHED"
        again = orchestra.run("reproduce/on-demand", targets=["train@real-nvp-2-0"])
        assert orchestra.states(again["id"])["train@real-nvp-2-0"] == "Unchanged"
        run = start_long_training(orchestra, epochs=60)
        (server,) = (child for child in psutil.Process(up.pid).children() if "server" in child.cmdline())
        server.kill()
        orchestra.wait_for(lambda: not is_alive(server))
        orchestra.wait_for_server()
        assert orchestra.ended(run)["state"]["type"] == "COMPLETED", orchestra.log(run)


@pytest.mark.slow
def test_ctrl_c_ends_the_run_of_a_worker_that_was_killed(reproduced, tmp_path):
    """Such a run continues until it next writes a line, although the worker has been restarted meanwhile."""
    project = shutil.copytree(reproduced.folder, tmp_path / "project")
    add_stage(project, SILENT)
    orchestra = Orchestra(with_infra(project), webhook="")
    with orchestra.up() as up:
        orchestra.trigger("reproduce/on-demand", targets=["silent"])
        orchestra.wait_for((project / "begun.txt").exists)
        (worker,) = (child for child in psutil.Process(up.pid).children() if "worker" in child.cmdline())
        worker.kill()
        log = project.parent / "project.up.txt"
        orchestra.wait_for(lambda: "the worker ended unexpectedly" in log.read_text())
        assert orchestra.processes()
    orchestra.wait_for(lambda: not orchestra.processes(), 10)
