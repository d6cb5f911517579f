"""A study as rows: it resumes, trains each row once, and continues from records that another machine wrote."""

import json
import os
import shutil
import signal
import sys
import time
from subprocess import CompletedProcess

import pytest
from project import environment
from rows import IMAGES, NAMES, PRESET, edit_preset, record, record_names, start_study, study_project
from rows import study as study_in_a_process

from pipeline.rows.__main__ import main

PATIENCE = 240  # seconds, far longer than anything here takes


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project whose study has run to its end, and the output of the command."""
    folder = study_project(tmp_path_factory.mktemp("study") / "project")
    return folder, study_in_a_process(folder, "--parallel", "2")


@pytest.fixture
def study(monkeypatch, capsys):
    """Run the command in this process, because a new one takes seconds to start; rows are trained in others."""

    def run(project, *options, check=True):
        monkeypatch.setattr(os, "environ", environment(project))
        monkeypatch.setattr(sys, "argv", ["study", PRESET, *options])
        monkeypatch.chdir(project)
        capsys.readouterr()
        code = main()
        output = capsys.readouterr()
        assert code == 0 or not check, output.err
        return CompletedProcess(options, code, output.out, output.err)

    return run


@pytest.fixture
def project(finished, tmp_path):
    """The project before the first row, with the data prepared."""
    folder, _ = finished
    ignored = shutil.ignore_patterns("reports", "checkpoints")
    return shutil.copytree(folder, tmp_path / "project", ignore=ignored, symlinks=True)


@pytest.fixture
def done(finished, tmp_path):
    """A copy of the finished project."""
    return shutil.copytree(finished[0], tmp_path / "done", symlinks=True)


def scores(folder, name):
    """What must not depend on interruptions and on the machine's speed."""
    content = record(folder, name)
    return content["scores"], content["curve"], content["images"]["sha256"], content["weights_sha256"]


def wait_for(condition):
    """Wait until a condition is true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def started(ran):
    """The rows that a command started, in order."""
    return [line.split(": ")[1] for line in ran.stdout.splitlines() if line.endswith((": started", ": resumed"))]


def test_every_row_is_trained_once_in_an_order_that_is_useful_early(finished):
    """The reference first, the first seed before the second, and the depth that is listed first before the others."""
    folder, ran = finished
    assert started(ran) == NAMES
    assert record_names(folder) == set(NAMES)
    assert ran.stdout.splitlines()[-1] == f"{PRESET}: 7 of 7 rows are done, nothing is left"


def test_a_record_has_what_the_row_depends_on_and_what_it_cost(finished):
    content = record(finished[0], "posterior/planar-3-0")
    assert content["vae"]["posterior"] == {"flow": "planar", "num_transforms": 3, "amortised": True}
    assert content["protocol"]["images"] == IMAGES
    assert set(content["seconds"]) == {
        f"{name}{kind}" for name in ("training", "scoring", "sampling") for kind in ("", "_cpu")
    }
    assert min(content["seconds"].values()) > 0
    assert len(content["curve"]["valid_negative_elbo"]) == content["training"]["epochs"] == 2
    assert {"processor", "torch"} < set(content["machine"])


def test_nothing_is_trained_twice(done, study):
    ran = study(done)
    assert started(ran) == []


def test_status_says_how_many_rows_are_done_and_how_long_the_rest_takes(done, study):
    (done / f"reports/study/rows/{PRESET}/posterior/planar-1-1.json").unlink()
    ran = study(done, "--status")
    assert ran.stdout.startswith(f"{PRESET}: 6 of 7 rows are done, about 0.0 hours are left\n  posterior: 5 of 6\n")
    (done / f"reports/study/rows/{PRESET}").rename(done / "elsewhere")
    assert "hours left are unknown until the first is done" in study(done, "--status").stdout


def test_a_row_of_another_machine_is_accepted_without_data_or_weights(finished, tmp_path, study):
    """As in a clone: only what git has."""
    folder = study_project(tmp_path / "clone")
    shutil.copytree(finished[0] / "reports/study", folder / "reports/study")
    shutil.rmtree(folder / "images")
    assert study(folder, "--status").stdout.startswith(f"{PRESET}: 7 of 7 rows are done, nothing is left")


def test_other_settings_train_only_their_rows_again(done, study):
    edit_preset(
        done,
        lambda preset: preset["studies"]["prior"]["families"]["prior_real_nvp"]["prior"].update(log_scale_bound=1.0),
    )
    ran = study(done, "--status")
    assert ran.stdout.startswith(f"{PRESET}: 6 of 7 rows are done")
    assert "to be trained again, because settings, data or code changed: prior/prior_real_nvp-1-0;" in ran.stdout
    assert started(study(done)) == ["prior/prior_real_nvp-1-0"]


def test_other_code_trains_again_only_what_uses_it(done):
    planar = done / "flowvae/model/flows/planar.py"
    text = planar.read_text()
    planar.write_text(text.replace("\n\n\nclass", "\n\n\n# A comment.\n\n\nclass"))
    assert study_in_a_process(done, "--status").stdout.startswith(f"{PRESET}: 7 of 7 rows are done")
    planar.write_text(text + "\n\nNOTHING = None\n")
    ran = study_in_a_process(done, "--status")
    assert ran.stdout.startswith(f"{PRESET}: 3 of 7 rows are done")
    assert study_in_a_process(done, "--keep").stdout.endswith(f"{PRESET}: 7 of 7 rows are done, nothing is left\n")
    assert study_in_a_process(done, "--status").stdout.startswith(f"{PRESET}: 7 of 7 rows are done")


def test_only_chooses_a_study_or_rows_by_their_names(project, study):
    assert started(study(project, "--only", "prior")) == ["prior/prior_real_nvp-1-0"]
    assert started(study(project, "--only", "planar-1-[01]$")) == ["posterior/planar-1-0", "posterior/planar-1-1"]
    ran = study(project, "--only", "radial", check=False)
    assert (ran.returncode, ran.stderr) == (
        1,
        "study: --only: no row has 'radial' in its name; names are like posterior/none-0-0\n",
    )


def test_no_row_is_started_after_the_hours(project, study):
    ran = study(project, "--hours", "0.0005", "--parallel", "1")  # less than it takes to import torch
    assert started(ran) == NAMES[:1]
    assert "study: 0.0005 hours are over; 6 rows are left for the next time" in ran.stdout
    assert record_names(project) == set(NAMES[:1])


def long(project, epochs=80):
    """Make training long enough to be killed."""
    edit_preset(
        project, lambda preset: preset["studies"]["posterior"].update(settings={"training": {"epochs": epochs}})
    )


def checkpoints(project):
    return list((project / "checkpoints/rows").rglob("0*.safetensors"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_row_resumes_and_gives_the_same(project, tmp_path, number, study):
    """Also if the command is killed: its processes end with it."""
    long(project)
    other = shutil.copytree(project, tmp_path / "other", symlinks=True)
    process = start_study(project, "--only", "planar-3-0")
    wait_for(lambda: checkpoints(project))
    os.kill(process.pid, number)
    code = process.wait(PATIENCE)
    assert record_names(project) == set()
    if number == signal.SIGINT:
        assert code == 130
        assert (project / "output.txt").read_text().splitlines()[-1] == "study: interrupted; run again to resume"
    wait_for(lambda: "running" not in study(project, "--status").stdout)
    before = checkpoints(project)
    ran = study(project, "--only", "planar-3-0")
    assert "study: posterior/planar-3-0: resumed" in ran.stdout
    assert before and not checkpoints(project)
    study(other, "--only", "planar-3-0")
    assert scores(project, "posterior/planar-3-0") == scores(other, "posterior/planar-3-0")


def test_two_commands_in_one_folder_train_no_row_twice(project):
    long(project, epochs=20)
    processes = [start_study(project, "--parallel", "1") for _ in range(2)]
    assert [process.wait(PATIENCE) for process in processes] == [0, 0]
    lines = (project / "output.txt").read_text().splitlines()
    trained = [line.split(": ")[1] for line in lines if "−ELBO" in line]
    names = {*NAMES, "prior/none-0-0"}  # which has fewer epochs than the plain VAE of the other study
    assert sorted(trained) == sorted(names)
    assert record_names(project) == names


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:300], "damaged (not JSON); "),
        (lambda text: text.replace('"status": "finished"', '"status": "fine"'), "damaged (status: Input should be "),
        (lambda text: text.replace('"seed": 0,', "", 1), "damaged (seed: Field required); "),
    ],
)
def test_a_damaged_record_is_one_line(done, damage, message, study):
    path = done / f"reports/study/rows/{PRESET}/posterior/none-0-0.json"
    path.write_text(damage(path.read_text()))
    for options in (["--status"], []):
        ran = study(done, *options, check=False)
        assert ran.returncode == 1
        (line,) = ran.stderr.splitlines()
        name = path.relative_to(done)
        assert line.startswith(f"study: {name}: {message}")
        assert line.endswith("restore it with git, or delete it to train the row again")


def test_a_row_that_diverges_is_recorded_with_its_reason(project, study):
    edit_preset(
        project, lambda preset: preset["studies"]["prior"].update(settings={"training": {"learning_rate": 1.0e30}})
    )
    ran = study(project, "--only", "prior/prior_real_nvp")
    content = record(project, "prior/prior_real_nvp-1-0")
    assert (content["status"], content["scores"]) == ("diverged", {})
    assert content["reason"].startswith("loss is not finite") and f"diverged: {content['reason']}" in ran.stdout
    assert "diverged: prior/prior_real_nvp-1-0: loss" in study(project, "--status").stdout
    assert started(study(project, "--only", "prior/prior_real_nvp")) == []


def test_a_row_that_fails_is_one_line_and_the_others_continue(project, study):
    (project / "data/study" / PRESET / "data/prepared/test.npy").write_bytes(b"nothing")
    ran = study(project, "--only", "0-0", check=False)
    assert ran.returncode == 1
    assert [line.split(": ")[1] for line in ran.stderr.splitlines()] == ["posterior/none-0-0"]
    assert "test.npy: damaged" in ran.stderr


def test_finish_measures_nll_of_all_images_for_the_best_row_of_each_family(done, study):
    before = record(done, "prior/prior_real_nvp-1-0")
    study(done, "--finish")
    after = {name: record(done, name) for name in NAMES}
    complete = {name for name, each in after.items() if each["evaluation"]["num_nll_images"] == IMAGES["test"]}
    assert "prior/prior_real_nvp-1-0" in complete and len(complete) >= 3
    changed = after["prior/prior_real_nvp-1-0"]
    assert changed["scores"]["negative_elbo_nats"] == before["scores"]["negative_elbo_nats"]
    assert changed["scores"]["nll_stderr"] < before["scores"]["nll_stderr"]
    assert started(study(done, "--finish")) == []


def test_mistakes_in_the_call_are_one_line(done, study):
    ran = study_in_a_process(done, "--hours", "-1", check=False)
    assert ran.returncode == 2 and "--hours" in ran.stderr.splitlines()[-1]
    edit_preset(done, lambda preset: preset["studies"]["prior"].update(over={"training.epochs": [1, 2]}))
    ran = study(done, check=False)
    assert ran.stderr.startswith(f"study: presets/{PRESET}.yaml: studies.prior: expected over: {{}}")
    assert len(ran.stderr.splitlines()) == 1


def test_records_are_readable_json_with_short_lines(finished):
    for path in (finished[0] / "reports/study/rows").rglob("*.json"):
        assert json.loads(path.read_text())
        assert path.with_suffix(".safetensors").stat().st_size < 40_000
