"""The stage `study`, on real Ray Tune."""

import json
import os
import signal
import sys
import time
from contextlib import suppress

import psutil
import pytest
from killing import NO_PROXY, PATIENCE, kill_group, start_stage, wait_for
from project import REAL_NVP, TINY, command, edit_params, planar, real_nvp, stage, study_rows
from ruamel.yaml import YAML

from pipeline.params.reading import load_params
from pipeline.scores import metric_names
from pipeline.stages.study import best_preset
from pipeline.study.points import Study

NONE = TINY["families"]["none"]
DEPTH = ("study", "--name", "depth")


def edit_study(project, name="depth", **changes):
    edit_params(project, lambda params: params["studies"][name].update(changes))


def run_study(project, name="depth", **changes):
    """Run a study, and return its rows."""
    ran = stage(project, "study", "--name", name, **NO_PROXY, **changes)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return study_rows(project, name)


def undisturbed_study(project):
    """The rows of a study that lasts long enough to be killed; its results are removed afterwards."""
    edit_study(project, settings={"training": {"epochs": 40, "batch_size": 100}})
    expected = run_study(project)
    for path in (project / "checkpoints/trials").iterdir():
        path.unlink()
    return expected


def stored(project):
    """The stored results, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (project / "checkpoints/trials").glob("*.json")}


def contents(project):
    """Everything that the stage wrote for the study `depth`."""
    return [(project / f"reports/studies/depth.{kind}").read_bytes() for kind in ("csv", "yaml")]


def without_warm_up(params):
    """Allow the loss to become infinite."""
    params["training"].update(max_grad_norm=1e30)
    params["training"]["schedule"].update(warmup_steps=0)


def test_the_study_of_dvc_repro(reproduced):
    assert "depth  trials 3/3" in reproduced.ran.stdout
    rows = study_rows(reproduced.folder)
    assert [(row["family"], row["num_transforms"]) for row in rows] == [("none", "0"), ("planar", "1"), ("planar", "3")]
    for row in rows:
        assert row["status"] == "finished"
        bound, nll = float(row["negative_elbo_nats"]), float(row["nll_nats"])
        assert float(row["reconstruction_nats"]) + float(row["kl_nats"]) == pytest.approx(bound, abs=2e-4)
        assert 0 < nll < bound + 3 * float(row["nll_stderr"])
    best = YAML(typ="safe", pure=True).load(reproduced.folder / "reports/studies/depth.yaml")
    planar = min(rows[1:], key=lambda row: float(row["valid_negative_elbo"]))
    assert best["variants"]["planar"]["posterior"]["num_transforms"] == int(planar["num_transforms"])
    assert (reproduced.folder / "reports/figures/studies/depth.png").read_bytes().startswith(b"\x89PNG")
    assert not list((reproduced.folder / "checkpoints").glob("study-*/*"))


def test_another_study_of_dvc_repro(reproduced):
    assert "stability  trials 4/4" in reproduced.ran.stdout
    rows = study_rows(reproduced.folder, "stability")
    assert [(row["family"], row["num_transforms"]) for row in rows] == [
        ("none", "1"),
        ("none", "2"),
        ("batch-norm", "1"),
        ("batch-norm", "2"),
    ]
    for row in rows:
        assert row["status"] == "finished"
        assert 0 < float(row["mean_grad_norm"]) <= float(row["max_grad_norm"])


def test_a_trial_gives_the_numbers_of_the_train_and_evaluate_stages(reproduced):
    """The plain VAE is a variant and a family, and one Real NVP is so too; both with the same settings."""
    for run, row in (
        ("vae-0", study_rows(reproduced.folder)[0]),
        ("real-nvp-2-0", study_rows(reproduced.folder, "stability")[0]),
    ):
        metrics = json.loads((reproduced.folder / f"metrics/{run}.json").read_text())
        assert {name: float(row[name]) for name in metric_names()} == {name: metrics[name] for name in metric_names()}


def test_only_new_trials_are_trained(files):
    before, known = study_rows(files), stored(files)
    assert len(known) == 3 + 4  # with those of the study `stability`
    edit_study(files, families={"planar": planar(num_transforms=[1, 2, 3])})
    after = run_study(files)
    assert [row["num_transforms"] for row in after] == ["1", "2", "3"]
    assert [after[0], after[2]] == before[1:]
    assert stored(files).items() >= known.items()
    assert len(stored(files)) == len(known) + 1


def test_without_new_trials_no_cluster_is_needed(files):
    """The bytes are the same again."""
    before, started = contents(files), time.monotonic()
    run_study(files, RAY_ADDRESS="127.0.0.1:9")
    assert contents(files) == before
    assert time.monotonic() - started < 60


def test_a_trial_of_another_study_is_not_trained_again(files):
    """The names of stored results do not depend on the study."""
    edit_study(files, families={"none": real_nvp(num_transforms=[2])})
    assert run_study(files, RAY_ADDRESS="127.0.0.1:9") == study_rows(files, "stability")[1:2]


@pytest.mark.parametrize(("name", "variants"), [("depth", ["none", "planar"]), ("stability", ["none", "batch-norm"])])
def test_the_best_variants_are_a_preset(files, name, variants):
    ran = command(files, sys.executable, "-m", "pipeline.preset", f"reports/studies/{name}.yaml", check=False)
    assert ran.returncode == 0, ran.stderr
    params = load_params(files / "params.yaml")
    assert list(params.variants) == variants
    assert params.report.reference == "none"


def test_the_best_flow_of_each_family_is_in_the_preset(files):
    """With its own values, and not with those of the best family."""
    families = {name: real_nvp(num_transforms=[1, 2]) for name in ("one", "two")}
    over = {"posterior.hidden_features": [[8], [16]], "training.learning_rate": [0.001, 0.002]}
    edit_study(files, families=families, over=over)
    study = Study("depth", load_params(files / "params.yaml"))
    losses = {("one", 2, 16, 0.001): 1.0, ("two", 1, 8, 0.002): 2.0}
    rows = [
        {
            "family": family,
            "num_transforms": depth,
            "posterior.hidden_features": [width],
            "training.learning_rate": rate,
            "status": "finished",
            "valid_negative_elbo": losses.get((family, depth, width, rate), 3.0),
        }
        for family in families
        for depth in (1, 2)
        for width in (8, 16)
        for rate in (0.001, 0.002)
    ]
    preset = best_preset(study, rows)
    assert preset["variants"]["one"]["posterior"] == REAL_NVP | {"num_transforms": 2, "hidden_features": [16]}
    assert preset["variants"]["two"]["posterior"] == REAL_NVP | {"num_transforms": 1, "hidden_features": [8]}
    assert preset["training"] == {"learning_rate": 0.001} and "posterior" not in preset
    assert preset["interpolation"] == {"left": "one", "right": "one"}
    assert list(best_preset(study, [row for row in rows if row["family"] == "two"])["variants"]) == ["two"]


def test_divergence_is_a_row_and_the_others_finish(files):
    edit_study(files, over={"training.learning_rate": [0.001, 1e12]}, settings={"training": {"max_grad_norm": 1e30}})
    edit_params(files, without_warm_up)
    rows = run_study(files)
    assert len(rows) == 6
    for row in rows:
        diverged = float(row["training.learning_rate"]) > 1
        assert row["status"] == ("diverged" if diverged else "finished")
        assert ("loss is not finite at epoch 1" in row["reason"]) == diverged


def own_lines(text):
    """What the stage itself prints: workers of Ray that are ended may print errors of their own."""
    return "\n".join(line for line in text.splitlines() if "pid=" not in line)


def test_a_study_in_which_all_trials_diverge(files):
    """Divergence is a result; but no trial finished, so there is no best one."""
    edit_params(files, without_warm_up)
    edit_study(files, "stability", settings={"training": {"learning_rate": 1e12}})
    ran = stage(files, "study", "--name", "stability", **NO_PROXY)
    assert ran.returncode == 1 and "Traceback" not in own_lines(ran.stderr)
    assert "diverged: loss is not finite at epoch 1" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("study: no trial of stability finished; ")
    assert [row["status"] for row in study_rows(files, "stability")] == ["diverged"] * 4


def test_a_study_without_data_is_no_result(files):
    """DVC does not lock it, so the next dvc repro runs it again; the data may be restored by then."""
    path = files / "data/prepared/train.npy"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1])
    edit_study(files, "stability", seeds=[7])
    ran = stage(files, "study", "--name", "stability", **NO_PROXY)
    assert ran.returncode == 1 and "Traceback" not in own_lines(ran.stderr)
    lines = [line for line in ran.stderr.splitlines() if line.startswith("study: ")]
    assert "failed: " in lines[0] and "train.npy: damaged" in lines[0]
    assert lines[-2:] == [
        "study: run dvc repro -f study@stability to retry failed trials",
        "study: no trial of stability finished; the reasons are above and in reports/studies/stability.csv",
    ]
    assert not stored(files).keys() & {f"{row['trial']}.json" for row in study_rows(files, "stability")}


def test_a_study_that_is_not_declared(files, complaint):
    assert complaint(files, "study", "--name", "huge") == (
        "params.yaml: studies: expected 'huge' among depth, stability"
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"settings": {"training": {"epoch": 1}}}, "params.yaml: studies.stability, none with k = 1: training.epoch: "),
        ({"search": {"name": "grit"}}, "params.yaml: studies.stability.search.name: expected one of"),
    ],
)
def test_fetch_reports_mistakes_before_anything_runs(files, complaint, edit, message):
    edit_study(files, "stability", **edit)
    assert complaint(files, "fetch").startswith(message)


@pytest.mark.slow
def test_trials_of_several_workers(files):
    """The numbers of a single process, but for the order in which float32 numbers are summed."""
    edit_study(
        files,
        settings={"training": {"epochs": 2, "batch_size": 100}},
        families={"planar": planar(num_transforms=[1, 3])},
    )
    expected = run_study(files)
    for path in (files / "checkpoints/trials").iterdir():
        path.unlink()
    rows = run_study(files, FLOWVAE_WORKERS_PER_TRIAL="2", FLOWVAE_MAX_FAILURES="1")
    assert [row["status"] for row in rows] == ["finished"] * 2
    for row, other in zip(rows, expected, strict=True):
        assert row["trial"] == other["trial"]
        for name in ("valid_negative_elbo", "negative_elbo_nats", "nll_nats"):
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "optuna"])
def test_searches(files, name):
    edit_study(
        files,
        search={"name": name, "num_trials": 4, "seed": 0},
        over={
            "training.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
            "model.encoder.channels": [[2, 2], [4, 4]],
        },
        settings={"training": {"epochs": 3}},
        early_stopping={"name": "asha", "grace_epochs": 1, "reduction_factor": 2},
    )
    rows = run_study(files)
    assert len(rows) == 4
    assert {row["status"] for row in rows} <= {"finished", "stopped"}
    assert any(row["status"] == "finished" for row in rows)
    for row in rows:
        assert 1e-3 <= float(row["training.learning_rate"]) <= 1e-2
        assert row["model.encoder.channels"] in ("[2, 2]", "[4, 4]")
    preset = YAML(typ="safe", pure=True).load(files / "reports/studies/depth.yaml")
    assert preset["model"]["encoder"]["channels"] in ([2, 2], [4, 4])
    assert stage(files, "report").returncode == 0
    assert f"3 epochs of 4,000 images, seed {rows[0]['seed']}" not in (files / "reports/results.md").read_text()


@pytest.mark.slow
def test_a_killed_study_resumes(files):
    """Killed as a whole in the middle of trials, again and again: its table is that of an undisturbed study."""
    expected = undisturbed_study(files)
    resumed = 0
    for _ in range(3):
        process = start_stage(files, *DEPTH)
        seen = set(files.glob("checkpoints/*/*.safetensors"))
        assert wait_for(lambda seen=seen: set(files.glob("checkpoints/*/*.safetensors")) - seen, process)
        kill_group(process)
        resumed += bool(set(files.glob("checkpoints/*/*.safetensors")))
    assert resumed
    assert run_study(files) == expected


@pytest.mark.slow
@pytest.mark.parametrize("early_stopping", ["none", "asha"])
def test_an_interrupted_study_keeps_nothing_of_unfinished_trials(files, early_stopping):
    """Ctrl-C reaches all processes of the terminal. Trials that it ends are not those that ASHA would have stopped."""
    if early_stopping == "asha":
        edit_study(files, early_stopping={"name": "asha", "grace_epochs": 40, "reduction_factor": 2})
    expected = undisturbed_study(files)
    table = contents(files)
    process = start_stage(files, *DEPTH)
    assert wait_for(lambda: any(files.glob("checkpoints/*/*.safetensors")), process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == 1
    output = (files / "output.txt").read_text()
    assert output.rstrip().endswith("study: interrupted; run again to resume")
    assert "Traceback" not in output
    assert contents(files) == table
    rows = [json.loads((files / "checkpoints/trials" / name).read_text()) for name in stored(files)]
    assert len(rows) < len(expected) and all(row["status"] == "finished" for row in rows)
    assert run_study(files) == expected


def workers(process):
    """The processes of the trials that run."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            name = " ".join(child.cmdline())
            if name.startswith("ray::") and not any(word in name for word in ("IDLE", "Agent")):
                found.append(child)
    return found


@pytest.mark.slow
def test_a_trial_whose_worker_is_killed_is_retried(files):
    expected = undisturbed_study(files)
    process = start_stage(files, *DEPTH)
    assert wait_for(lambda: any(files.glob("checkpoints/*/*.safetensors")), process)
    running = workers(process)
    assert running, "no trial was running"
    running[0].kill()
    assert process.wait(300) == 0, (files / "output.txt").read_text()[-3000:]
    assert study_rows(files) == expected


def test_trials_whose_workers_are_killed_before_their_first_report_are_recorded(files):
    """Ray Tune returns them without their configuration."""
    edit_study(files, settings={"training": {"epochs": 40, "batch_size": 100}})
    process = start_stage(files, *DEPTH, FLOWVAE_MAX_FAILURES="1")
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None:
        assert time.monotonic() < deadline, (files / "output.txt").read_text()[-3000:]
        with suppress(psutil.NoSuchProcess):
            for worker in workers(process):
                worker.kill()
        time.sleep(0.01)
    output = (files / "output.txt").read_text()
    assert process.returncode == 1 and "study: no trial of depth finished; " in output.splitlines()[-1], output[-3000:]
    rows = study_rows(files)
    assert [row["status"] for row in rows] == ["failed"] * 3 and all(row["reason"] for row in rows)


@pytest.mark.slow
def test_a_trial_that_always_fails_is_recorded_and_the_others_finish(files):
    """Weights that fit into no memory: the trial is retried, and the reason is in the table."""
    edit_study(files, over={"model.decoder.hidden_features": [[8], [10**12]]}, families={"none": NONE})
    rows = run_study(files, FLOWVAE_MAX_FAILURES="1")
    assert [row["status"] for row in rows] == ["finished", "failed"]
    assert "allocate" in rows[1]["reason"]


@pytest.mark.slow
def test_a_trial_that_runs_out_of_memory_is_recorded_and_the_others_finish(files):
    """Ray's memory monitor ends it long before the memory of the machine is used up."""
    memory = psutil.virtual_memory()
    if memory.available < 12 << 30:
        pytest.skip("needs 12 GiB of free memory")
    # Room for Ray and small trials, but not for the large one.
    threshold = 1 - (memory.available - (4 << 30)) / memory.total
    edit_study(
        files,
        over={"model.decoder.hidden_features": [[8], [1_000_000]]},  # 6 GB of weights
        families={"none": NONE},
        seeds=[0, 1],
    )
    rows = run_study(files, FLOWVAE_MAX_FAILURES="1", RAY_memory_usage_threshold=str(threshold))
    assert [row["status"] for row in rows] == ["finished", "failed"] * 2
    for row in rows[1::2]:
        assert row["reason"].startswith("the node ran out of memory (")
