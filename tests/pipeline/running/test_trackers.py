"""Runs and trials in MLflow and W&B, through their own clients, without a network."""

import csv
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from killing import VARIANT, finish, has_checkpoint, kill_group, results, slow_down, start, wait_for
from project import edit_params, planar, stage, study_rows
from tracking import mlflow_runs, wandb_runs

from flowvae.errors import InputError
from pipeline.running.redaction import HIDDEN
from pipeline.running.trackers import (
    RUN,
    SETTING,
    TRACKERS,
    Trackers,
    check_submitted,
    prepare_clients,
    requested_trackers,
    sent_variables,
)
from pipeline.running.trackers.tracker import TrackedRun

BOTH = {SETTING: "mlflow,wandb", "WANDB_MODE": "offline"}
NOWHERE = "http://127.0.0.1:9"  # nothing listens there
VAE = ("--variant", "vae", "--seed", "0")

# What clients do with other libraries is not the project's to fix.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def clients_of_the_test(monkeypatch):
    """No settings of the user's; what prepare_clients sets is removed afterwards."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "WANDB_", SETTING))}
    monkeypatch.setattr(os, "environ", kept)


def ran(project: Path, *arguments: str, **changes: str) -> list[str]:
    """Run a stage that must succeed. Returns: its lines on standard error."""
    completed = stage(project, *arguments, **changes)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stderr.splitlines()


def curve(project: Path, run: str) -> dict[int, float]:
    """Validation -ELBO by epoch, as the stage `train` wrote it."""
    with (project / f"curves/{run}.csv").open() as file:
        return {int(row["epoch"]): float(row["valid_negative_elbo"]) for row in csv.DictReader(file)}


@pytest.mark.long
def test_a_run_has_one_entry_from_its_first_epoch_to_its_test_metrics(files):
    edit_params(files, lambda params: params["training"].update(epochs=2))
    assert ran(files, "train", *VAE, **BOTH) == []
    assert ran(files, "evaluate", *VAE, **BOTH) == []
    (run,), parts = mlflow_runs(files), wandb_runs(files)
    metrics = {f"test_{name}": value for name, value in json.loads((files / "metrics/vae-0.json").read_text()).items()}
    assert len(metrics) > 10
    for stored in (run, *parts):
        assert (stored.name, stored.group, stored.failed) == ("vae-0", "vae", False)
        assert stored.run_id == run.run_id and stored.run_id.startswith("vae-0-")
    assert run.curve == parts[0].curve == curve(files, "vae-0") and set(run.curve) == {1, 2}
    assert (run.config["variant"], run.config["training.epochs"], run.config["model.encoder.channels"]) == (
        "vae",
        "2",
        "[2, 2]",
    )
    assert parts[0].config["training"]["epochs"] == 2 and parts[0].config["seed"] == 0
    gathered = parts[0].values | parts[1].values | parts[2].values
    for values in (run.values, gathered):
        assert {name: values[name] for name in metrics} == metrics
        assert values["train_device"] == "CPU, 1 thread" and values["train_placement"] == "this process"
        assert values["images_per_second"] > 0 and values["evaluate_seconds"] > 0


@pytest.mark.long
def test_a_run_that_was_killed_continues_its_curve(files):
    """Once; and being watched changes nothing in its results."""
    slow_down(files, epochs=6)
    finish(start(files), files)
    expected = results(files)
    for path in (files / "models/real-nvp-2-0").iterdir():
        path.unlink()
    process = start(files, **BOTH)
    log = files / "logs/train/real-nvp-2-0.log"
    untracked = log.read_text().count("epoch 3/6")
    assert wait_for(lambda: log.read_text().count("epoch 3/6") > untracked and has_checkpoint(files), process)
    kill_group(process)  # with what W&B has not yet written offline
    finish(start(files, **BOTH), files)
    assert results(files) == expected
    assert "resumed after step" in log.read_text()
    (run,), parts = mlflow_runs(files), wandb_runs(files)
    assert run.curve == curve(files, "real-nvp-2-0") and set(run.curve) == {1, 2, 3, 4, 5, 6}
    assert {part.run_id for part in parts} == {run.run_id}
    offline = {epoch: value for part in parts for epoch, value in part.curve.items()}
    assert offline.items() <= run.curve.items() and {4, 5, 6} <= set(offline)


@pytest.mark.long
def test_only_one_of_several_workers_shows_the_run(files):
    ran(files, "train", *VARIANT, "--workers", "2", **BOTH, http_proxy="", https_proxy="")
    (run,), parts = mlflow_runs(files), wandb_runs(files)
    assert run.curve == curve(files, "real-nvp-2-0") == parts[0].curve
    assert [part.curve for part in parts[1:]] == [{}]
    assert run.values["train_placement"].startswith("Ray, 2")


@pytest.mark.long
def test_trials_are_runs_of_their_study(files):
    def edit(params):
        params["studies"]["depth"]["families"]["planar"] = planar(num_transforms=[2, 5])

    edit_params(files, edit)
    ran(files, "study", "--name", "depth", **BOTH)
    rows = {row["trial"]: row for row in study_rows(files)}
    runs, parts = {run.run_id: run for run in mlflow_runs(files, "flowvae-depth")}, wandb_runs(files)
    new = {trial for trial, row in rows.items() if row["num_transforms"] in ("2", "5")}
    assert runs.keys() == {part.run_id for part in parts} == new  # the other one had been trained before
    for stored in (*runs.values(), *parts):
        row = rows[stored.run_id]
        assert stored.group == "depth" and not stored.failed
        assert stored.values["test_nll_nats"] == float(row["nll_nats"])
        assert list(stored.curve) == [1]
        assert int(stored.config["num_transforms"]) == int(row["num_transforms"])


@pytest.mark.long
def test_a_server_that_does_not_answer_is_one_line(files):
    address = "http://user:hunter2x@127.0.0.1:9"
    unreachable = {
        SETTING: "mlflow,wandb",
        "MLFLOW_TRACKING_URI": address,
        "WANDB_BASE_URL": NOWHERE,
        "WANDB_API_KEY": "0123456789" * 4,
        "WANDB_INIT_TIMEOUT": "3",
    }
    model = files / "models/vae-0/model.safetensors"
    model.unlink()
    lines = ran(files, "train", *VAE, **unreachable)
    assert [line.partition(" cannot be used (")[0] for line in lines] == [
        "train: FLOWVAE_TRACKER: mlflow",
        "train: FLOWVAE_TRACKER: wandb",
    ]
    assert "refused" in lines[0] and all(line.endswith("; this run continues without it") for line in lines)
    assert "hunter2x" not in "".join(lines) and "0123456789" not in "".join(lines)
    assert model.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({SETTING: "mlfow"}, "FLOWVAE_TRACKER: expected mlflow or wandb, or several with commas, got 'mlfow'"),
        ({SETTING: "mlflow, tensorboard"}, "expected mlflow or wandb, or several with commas, got 'tensorboard'"),
        ({SETTING: "wandb", "WANDB_API_KEY": ""}, "FLOWVAE_TRACKER: wandb has no key; run wandb login, set"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(files, complaint, tmp_path, settings, message):
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_CONFIG_DIR": str(tmp_path)}
    before = (files / "logs/train/vae-0.log").read_text()
    assert message in complaint(files, "train", *VAE, **settings, **home)
    assert (files / "logs/train/vae-0.log").read_text() == before


def test_an_unknown_tracker_stops_the_first_stage(files, complaint):
    assert "got 'mlfow'" in complaint(files, "fetch", **{SETTING: "mlfow"})


@pytest.mark.parametrize("name", TRACKERS)
def test_a_client_that_is_not_installed_is_named_with_what_installs_it(monkeypatch, name, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as caught:
        prepare_clients([name], tmp_path)
    assert str(caught.value) == f"FLOWVAE_TRACKER: {name} is not installed; make .venv/installed-{name} installs it"


def test_a_folder_of_the_name_of_a_client_is_no_client(monkeypatch, tmp_path):
    """W&B leaves a folder `wandb` in the project's, which is on the path."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(InputError, match="wandb is not installed"):
        prepare_clients(["wandb"], tmp_path)


def test_trackers_are_named_once_each_and_none_by_default():
    assert requested_trackers({}) == requested_trackers({SETTING: ""}) == ()
    assert requested_trackers({SETTING: " wandb, mlflow,wandb,"}) == ("wandb", "mlflow")


@pytest.fixture
def run(tmp_path):
    """A run that MLflow shows, in a store of its own."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/mlflow.db"
    prepare_clients(["mlflow"], tmp_path)
    return TrackedRun(("mlflow",), "a-0-1", "a-0", "a", False, {"model": {f"value-{k}": k for k in range(150)}})


def point(epoch):
    return {"epoch": epoch, "valid_negative_elbo": 100.0 - epoch}


def test_settings_of_any_number_are_stored(run, tmp_path):
    Trackers(run, pytest.fail).close()
    (stored,) = mlflow_runs(tmp_path)
    assert stored.config == {f"model.value-{k}": str(k) for k in range(150)}


def test_epochs_that_were_missed_are_added_at_the_end(run, tmp_path):
    trackers = Trackers(run, pytest.fail)
    trackers.log(point(1), 1)
    trackers.close(failed=True)
    assert mlflow_runs(tmp_path)[0].failed
    trackers = Trackers(run, pytest.fail)
    trackers.complete([point(1), point(2), point(3)])
    trackers.close()
    (stored,) = mlflow_runs(tmp_path)
    assert stored.curve == {1: 99.0, 2: 98.0, 3: 97.0} and not stored.failed


def test_a_tracker_that_fails_later_is_one_line_too(run, tmp_path):
    """Here the disk: its store is no database any more."""
    lines = []
    trackers = Trackers(run, lines.append)
    trackers.log(point(1), 1)
    for path in tmp_path.glob("mlflow.db*"):
        path.write_bytes(b"x" * path.stat().st_size)
    trackers.log(point(2), 2)
    trackers.log(point(3), 3)
    trackers.close()
    (line,) = lines
    assert line.startswith("FLOWVAE_TRACKER: mlflow cannot be used (")


def test_a_tracker_that_cannot_be_reached_at_the_start_is_not_tried_again(run, monkeypatch):
    lines = []
    os.environ[RUN] = replace(run, trackers=("mlflow",)).to_json()
    os.environ["MLFLOW_TRACKING_URI"] = NOWHERE
    assert Trackers.of_process(lines.append).addresses == []
    assert TrackedRun.from_json(os.environ[RUN]) == replace(run, trackers=())
    assert len(lines) == 1


def test_addresses_have_no_credentials(run):
    trackers = Trackers(run, pytest.fail)
    trackers.open["mlflow"].address = "postgresql://user:hunter2x@host/db, run 1"
    assert trackers.addresses == [f"mlflow: postgresql://{HIDDEN}@host/db, run 1"]
    trackers.close()


def test_other_machines_get_the_settings_but_no_credentials():
    sent = {SETTING: "mlflow", RUN: "{}", "MLFLOW_TRACKING_URI": "http://host:5000", "WANDB_MODE": "online"}
    kept = {
        "MLFLOW_TRACKING_PASSWORD": "hunter2x",
        "MLFLOW_TRACKING_TOKEN": "hunter2x",
        "WANDB_API_KEY": "hunter2x",
        "WANDB_BASE_URL": "https://user:hunter2x@host",
        "PATH": "/bin",
    }
    assert sent_variables(sent | kept) == sent


def test_a_job_does_not_leave_its_runs_in_its_own_folder():
    with pytest.raises(InputError, match=r"mlflow would leave its runs .* set MLFLOW_TRACKING_URI"):
        check_submitted({SETTING: "mlflow"})
    with pytest.raises(InputError, match=r"wandb would leave its runs .* set WANDB_DIR"):
        check_submitted({SETTING: "wandb", "WANDB_MODE": "offline"})
    check_submitted({SETTING: "mlflow,wandb", "MLFLOW_TRACKING_URI": "http://host:5000"})
    check_submitted({"WANDB_MODE": "offline"})
