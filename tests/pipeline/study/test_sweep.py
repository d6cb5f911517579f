"""The sweep stage, on real Ray Tune."""

import json
import sys
import time
from contextlib import suppress

import psutil
import pytest
from killing import NO_PROXY, kill_group, start_stage, wait_for
from project import command, edit_params, stage, sweep_rows
from ruamel.yaml import YAML

from pipeline.params.reading import load_params
from pipeline.stages.study import best

PLANAR = {"flow": {"flow": "planar", "amortised": True}}


def edit_sweep(project, **changes):
    edit_params(project, lambda params: params["sweep"]["budgets"]["tiny"].update(changes))


def sweep(project, **changes):
    ran = stage(project, "sweep", **NO_PROXY, **changes)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return sweep_rows(project)


def undisturbed_sweep(project):
    """The table of a sweep that lasts long enough to be killed in; its trials are forgotten then."""
    edit_sweep(project, settings={"training": {"epochs": 40, "batch_size": 100}})
    expected = sweep(project)
    for path in (project / "checkpoints/trials").iterdir():
        path.unlink()
    return expected


def kept(project):
    return {path.name: path.stat().st_mtime_ns for path in (project / "checkpoints/trials").glob("*.json")}


def test_what_dvc_repro_left(reproduced):
    assert "sweep  trials 3/3" in reproduced.ran.stdout
    table = sweep_rows(reproduced.folder)
    assert [(row["family"], row["num_transforms"]) for row in table] == [
        ("none", "0"),
        ("planar", "1"),
        ("planar", "3"),
    ]
    for row in table:
        assert row["status"] == "finished"
        bound, nll = float(row["negative_elbo_nats"]), float(row["nll_nats"])
        assert float(row["reconstruction_nats"]) + float(row["kl_nats"]) == pytest.approx(bound, abs=2e-4)
        assert 0 < nll < bound + 3 * float(row["nll_stderr"])
    best = YAML(typ="safe", pure=True).load(reproduced.folder / "reports/sweep_best.yaml")
    planar = min(table[1:], key=lambda row: float(row["valid_negative_elbo"]))
    assert best["variants"]["planar"]["num_transforms"] == int(planar["num_transforms"])
    assert (reproduced.folder / "reports/figures/sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not list((reproduced.folder / "checkpoints").glob("sweep/*"))


def test_a_trial_gives_the_numbers_of_the_train_and_evaluate_stages(reproduced):
    """The plain VAE is in the table and in the sweep, with the same settings."""
    metrics = json.loads((reproduced.folder / "metrics/vae-0.json").read_text())
    row = sweep_rows(reproduced.folder)[0]
    for name in ("negative_elbo_nats", "nll_nats", "kl_stderr"):
        assert float(row[name]) == pytest.approx(metrics[name], abs=1e-4)


def test_only_what_is_new_is_trained(files):
    before, known = sweep_rows(files), kept(files)
    assert len(known) == 3 + 4  # and those of the stability study
    edit_sweep(files, families={"planar": PLANAR | {"num_transforms": [1, 2, 3]}})
    after = sweep(files)
    assert [row["num_transforms"] for row in after] == ["1", "2", "3"]
    assert [after[0], after[2]] == before[1:]
    assert kept(files).items() >= known.items()
    assert len(kept(files)) == len(known) + 1


def test_nothing_new_needs_no_cluster(files):
    before, started = sweep_rows(files), time.monotonic()
    assert sweep(files, RAY_ADDRESS="127.0.0.1:9") == before
    assert time.monotonic() - started < 60


def test_the_best_is_a_preset(files):
    (files / "params").mkdir()
    ran = command(files, sys.executable, "-m", "pipeline.preset", "reports/sweep_best.yaml", check=False)
    assert ran.returncode == 0, ran.stderr
    assert list(load_params(files / "params.yaml").variants) == ["none", "planar"]


def test_the_best_flows_are_in_the_preset_too(files):
    """Each family's own, and not those of the best family."""
    flow = {"flow": "real_nvp", "context": True, "log_scale_bound": 2.0, "normalization": "none"}
    flow |= {"weight_norm": False, "net_batch_norm": False, "hidden_features": [8]}
    families = {name: {"flow": flow, "num_transforms": [1, 2]} for name in ("one", "two")}
    over = {"flow.hidden_features": [[8], [16]], "training.learning_rate": [0.001, 0.002]}
    edit_sweep(files, families=families, over=over)
    params = load_params(files / "params.yaml")
    losses = {("one", 2, 16, 0.001): 1.0, ("two", 1, 8, 0.002): 2.0}
    rows = [
        {
            "family": family,
            "num_transforms": depth,
            "flow.hidden_features": [width],
            "training.learning_rate": rate,
            "status": "finished",
            "valid_negative_elbo": losses.get((family, depth, width, rate), 3.0),
        }
        for family in families
        for depth in (1, 2)
        for width in (8, 16)
        for rate in (0.001, 0.002)
    ]
    found = best(params, rows)
    assert found["variants"]["one"] == flow | {"num_transforms": 2, "hidden_features": [16]}
    assert found["variants"]["two"] == flow | {"num_transforms": 1, "hidden_features": [8]}
    assert found["training"] == {"learning_rate": 0.001} and "flow" not in found


def test_divergence_is_a_row_and_the_others_finish(files):
    edit_sweep(files, over={"training.learning_rate": [0.001, 1e12]}, settings={"training": {"max_grad_norm": 1e30}})
    edit_params(files, lambda params: params["training"]["schedule"].update(warmup_steps=0))
    table = sweep(files)
    assert len(table) == 6
    for row in table:
        diverged = float(row["training.learning_rate"]) > 1
        assert row["status"] == ("diverged" if diverged else "finished")
        assert ("loss is not finite at epoch 1" in row["reason"]) == diverged


@pytest.mark.slow
def test_trials_of_several_workers(files):
    """The numbers of one process, but for the order in which float32 adds up."""
    settings = {"training": {"epochs": 2, "batch_size": 100}}
    depths = {"planar": PLANAR | {"num_transforms": [1, 3]}}
    edit_sweep(files, settings=settings, families=depths)
    expected = sweep(files)
    for path in (files / "checkpoints/trials").iterdir():
        path.unlink()
    table = sweep(files, FLOWVAE_WORKERS_PER_TRIAL="2", FLOWVAE_MAX_FAILURES="1")
    assert [row["status"] for row in table] == ["finished"] * 2
    for row, other in zip(table, expected, strict=True):
        assert row["trial"] == other["trial"]
        for name in ("valid_negative_elbo", "negative_elbo_nats", "nll_nats"):
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "optuna"])
def test_searches(files, name):
    edit_sweep(
        files,
        search={"name": name, "num_trials": 4, "seed": 0},
        over={
            "training.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
            "model.encoder.channels": [[2, 2], [4, 4]],
        },
        settings={"training": {"epochs": 3}},
        early_stopping={"grace_epochs": 1, "reduction_factor": 2},
    )
    table = sweep(files)
    assert len(table) == 4
    assert {row["status"] for row in table} <= {"finished", "stopped"}
    assert any(row["status"] == "finished" for row in table)
    for row in table:
        assert 1e-3 <= float(row["training.learning_rate"]) <= 1e-2
        assert row["model.encoder.channels"] in ("[2, 2]", "[4, 4]")
    preset = YAML(typ="safe", pure=True).load(files / "reports/sweep_best.yaml")
    assert preset["model"]["encoder"]["channels"] in ([2, 2], [4, 4])


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_stopped(files):
    """Killed as a whole in the middle of trials, again and again: the table of one that was left alone."""
    expected = undisturbed_sweep(files)
    resumed = 0
    for _ in range(3):
        process = start_stage(files, "sweep")
        seen = set(files.glob("checkpoints/*/*.safetensors"))
        assert wait_for(lambda seen=seen: set(files.glob("checkpoints/*/*.safetensors")) - seen, process)
        kill_group(process)
        resumed += bool(set(files.glob("checkpoints/*/*.safetensors")))
    assert resumed
    assert sweep(files) == expected


@pytest.mark.slow
def test_a_killed_worker_is_retried(files):
    expected = undisturbed_sweep(files)
    process = start_stage(files, "sweep")
    assert wait_for(lambda: any(files.glob("checkpoints/*/*.safetensors")), process)
    actors = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            name = " ".join(child.cmdline())
            if name.startswith("ray::") and not any(word in name for word in ("IDLE", "Agent")):
                actors.append(child)
    assert actors, "no trial was running"
    actors[0].kill()
    assert process.wait(300) == 0, (files / "output.txt").read_text()[-3000:]
    assert sweep_rows(files) == expected


@pytest.mark.slow
def test_a_trial_that_always_fails_is_recorded_and_the_others_finish(files):
    """Weights that no memory holds: it is tried again, and the reason is in the table."""
    edit_sweep(
        files,
        over={"model.decoder.hidden_features": [[8], [10**12]]},
        families={"none": {"flow": {"flow": "none"}, "num_transforms": [0]}},
    )
    table = sweep(files, FLOWVAE_MAX_FAILURES="1")
    assert [row["status"] for row in table] == ["finished", "failed"]
    assert "allocate" in table[1]["reason"]


@pytest.mark.slow
def test_a_trial_that_runs_out_of_memory_is_recorded_and_the_others_finish(files):
    """Ray's memory monitor ends it long before the machine's memory does."""
    memory = psutil.virtual_memory()
    if memory.available < 12 << 30:
        pytest.skip("needs 12 GiB of free memory")
    threshold = (
        1 - (memory.available - (4 << 30)) / memory.total
    )  # room for Ray and small trials, not for the large one
    edit_sweep(
        files,
        over={"model.decoder.hidden_features": [[8], [1_000_000]]},  # 6 GB of weights
        families={"none": {"flow": {"flow": "none"}, "num_transforms": [0]}},
        seeds=[0, 1],
    )
    table = sweep(files, FLOWVAE_MAX_FAILURES="1", RAY_memory_usage_threshold=str(threshold))
    assert [row["status"] for row in table] == ["finished", "failed"] * 2
    for row in table[1::2]:
        assert row["reason"].startswith("the node ran out of memory (")
