"""The pipeline under real DVC: what a change runs again, what it leaves alone, and what DVC's commands show.

What one edit makes stale is tested in test_staleness.py, case by case and without running anything.
"""

import csv
import json
import shutil
from pathlib import Path

import pytest
from project import (
    EVALUATED,
    RUNS,
    TRAINED,
    VARIANTS,
    command,
    commit,
    copy_project,
    dvc,
    edit_params,
    stages_run,
    study_rows,
)

from flowvae.data.arrays import read_metadata
from pipeline.files import read_json, write_json

TOLD = "whose results are committed are neither here nor in DVC's cache"
SECOND_SEED = {f"{stage}@{variant}-1" for stage in ("train", "evaluate") for variant in VARIANTS}


def changed(project: Path) -> set[str]:
    """Stages whose own params, code or files changed."""
    return set(json.loads(dvc(project, "status", "--json").stdout)) - {"fetch"}


def append_comment(path: Path) -> None:
    path.write_text(path.read_text() + "\n# another line\n")


def test_experiment_on_one_variant_runs_only_that_variant(copy):
    """DVC shows its metrics, their differences, the experiment and the plots."""
    before = json.loads((copy / "metrics/planar-4-0.json").read_text())
    ran = dvc(copy, "exp", "run", "--name", "deeper", "--set-param", "variants.planar-4.posterior.num_transforms=3")
    assert stages_run(ran) == {"train@planar-4-0", "evaluate@planar-4-0", "interpolate", "report"}
    after = json.loads((copy / "metrics/planar-4-0.json").read_text())
    assert after["parameters"] > before["parameters"]

    shown = json.loads(dvc(copy, "metrics", "show", "--json").stdout)
    files = shown[""]["data"]
    assert set(files) == {f"metrics/{run}.json" for run in RUNS}
    assert files["metrics/planar-4-0.json"]["data"] == after
    difference = json.loads(dvc(copy, "metrics", "diff", "--json").stdout)
    assert set(difference) == {"metrics/planar-4-0.json"}
    assert difference["metrics/planar-4-0.json"]["parameters"]["old"] == before["parameters"]
    assert "deeper" in dvc(copy, "exp", "list", "--name-only").stdout.split()

    dvc(copy, "plots", "show", "--out", "plots")
    page = (copy / "plots/index.html").read_text()
    assert all(run in page for run in RUNS)
    assert "interpolation.png" in page and "gains_against_depth.png" in page
    assert all(f"studies_{name}.png" in page for name in ("depth", "stability"))


@pytest.fixture
def clone(copy, tmp_path) -> Path:
    """A fresh clone whose cache is in a remote."""
    dvc(copy, "remote", "add", "--default", "store", str(tmp_path / "remote"))
    commit(copy)
    assert "pushed" in dvc(copy, "push").stdout
    command(copy, "git", "clone", "--quiet", str(copy), str(tmp_path / "clone"))
    return tmp_path / "clone"


def test_a_fresh_clone_pulls_and_runs_only_fetch(clone):
    assert not (clone / "models").exists()
    dvc(clone, "pull")
    assert changed(clone) == set()
    assert (clone / "models/vae-0/model.safetensors").is_file()
    ran = dvc(clone, "repro")
    assert stages_run(ran) == set()
    assert "Running stage 'fetch'" in ran.stdout + ran.stderr
    assert TOLD not in ran.stdout + ran.stderr
    assert command(clone, "git", "status", "--porcelain").stdout == ""


def test_without_a_pull_fetch_says_that_everything_is_trained_again(clone):
    ran = dvc(clone, "repro", "fetch")
    (line,) = (line for line in (ran.stdout + ran.stderr).splitlines() if TOLD in line)
    assert line.startswith(f"fetch: the files of {len(RUNS)} models") and "dvc pull" in line


def test_real_data_are_not_replaced_by_the_fallback_after_prepare_failed(copy):
    """DVC has then deleted the arrays; without their source files and the network they are only in its cache."""
    source, kept = copy / "data/source.json", copy / "data/prepared/source.json"
    write_json(source, {"source": "mnist", "fingerprint": None})
    write_json(kept, read_json(source))
    dvc(copy, "commit", "--force", "fetch")
    dvc(copy, "commit", "--force", "prepare")
    before, code = kept.read_bytes(), (copy / "pipeline/stages/prepare.py").read_text()
    append_comment(copy / "pipeline/stages/prepare.py")
    for _ in range(2):
        ran = dvc(copy, "repro", "prepare", check=False)
        assert ran.returncode != 0 and "prepare: MNIST: data/raw has no MNIST/raw/" in ran.stderr
        assert "FALLBACK" not in ran.stdout + ran.stderr
        assert read_json(source)["source"] == "mnist" and not kept.exists()
    (copy / "pipeline/stages/prepare.py").write_text(code)
    assert stages_run(dvc(copy, "repro", "prepare")) == set()
    assert kept.read_bytes() == before


@pytest.mark.slow
def test_a_damaged_model_is_replaced_from_the_cache(copy):
    """By `dvc repro`, as the error messages say."""
    model = copy / "models/planar-4-0/model.safetensors"
    good = model.read_bytes()
    model.unlink()
    model.write_bytes(good[:100])
    dvc(copy, "repro", "train@planar-4-0")
    assert model.read_bytes() == good
    assert changed(copy) == set()


def test_available_mnist_replaces_the_fallback_and_is_kept_without_its_files(copy, data_root):
    ran = dvc(copy, "repro", "prepare", FLOWVAE_DATA_ROOT=str(data_root))
    assert stages_run(ran) == {"prepare"}
    metadata = read_metadata(copy / "data/prepared")
    assert metadata.counts == {"train": 50_000, "valid": 10_000, "test": 10_000}
    assert metadata.provenance.banner is None
    assert stages_run(dvc(copy, "repro", "prepare")) == set()
    assert read_metadata(copy / "data/prepared") == metadata


def test_an_edit_of_one_study_runs_only_that_study(reproduced, tmp_path):
    """Its remaining trials have stored rows, so Ray is not started."""
    project = shutil.copytree(reproduced.folder, tmp_path / "project")
    edit_params(
        project, lambda params: params["studies"]["depth"]["families"]["planar"]["posterior"].update(num_transforms=[3])
    )
    assert stages_run(dvc(project, "repro", RAY_ADDRESS="127.0.0.1:9")) == {"study@depth", "report"}
    assert [row["num_transforms"] for row in study_rows(project)] == ["0", "3"]
    assert study_rows(project)[1] == study_rows(reproduced.folder)[2]


def test_without_studies_the_report_has_no_study(copy):
    edit_params(copy, lambda params: params.update(studies={}))
    assert stages_run(dvc(copy, "repro")) == {"report"}
    assert list((copy / "reports/figures/studies").iterdir()) == []
    assert "Study:" not in (copy / "reports/results.md").read_text()
    assert "Study:" not in (copy / "reports/index.html").read_text()
    assert stages_run(dvc(copy, "repro")) == set()


@pytest.mark.slow
def test_a_copy_without_git_computes_the_same_bytes(reproduced, tmp_path):
    """From nothing, in another folder, with the option that the Makefile sets where there is no git.

    dvc.lock has the hash of every output.
    """
    project = copy_project(tmp_path / "elsewhere", git=False)
    dvc(project, "config", "--local", "core.no_scm", "true")
    dvc(project, "repro")
    assert (project / "dvc.lock").read_text() == (reproduced.folder / "dvc.lock").read_text()
    for file in ("results.csv", "results.md", "index.html", "studies/depth.csv", "figures/studies/depth.png"):
        assert (project / "reports" / file).read_bytes() == (reproduced.folder / "reports" / file).read_bytes()


@pytest.mark.slow
def test_another_seed_trains_only_new_runs(copy):
    edit_params(copy, lambda params: params.update(seeds=[0, 1]))
    assert stages_run(dvc(copy, "repro")) == SECOND_SEED | {"interpolate", "report"}
    with (copy / "reports/results.csv").open() as file:
        rows = [(row["variant"], row["seed"]) for row in csv.DictReader(file)]
    assert rows == [(variant, seed) for variant in VARIANTS for seed in "01"]
    assert "(sd " in (copy / "reports/results.md").read_text()


@pytest.mark.slow
def test_an_experiment_on_the_learning_rate_retrains_all(copy):
    ran = dvc(copy, "exp", "run", "--set-param", "training.learning_rate=0.001")
    assert stages_run(ran) == TRAINED | EVALUATED | {"interpolate", "report"}
    assert set(json.loads(dvc(copy, "metrics", "diff", "--json").stdout)) == {f"metrics/{run}.json" for run in RUNS}


@pytest.mark.slow
def test_evaluation_and_interpolation_retrain_nothing(copy):
    edit_params(copy, lambda params: params["evaluation"].update(seed=1))
    append_comment(copy / "flowvae/interpolation.py")
    assert stages_run(dvc(copy, "repro")) == EVALUATED | {"interpolate", "report"}


@pytest.mark.slow
def test_interpolate_follows_the_variants_that_it_shows(copy):
    edit_params(copy, lambda params: params["variants"]["real-nvp-2"]["posterior"].update(num_transforms=2))
    ran = dvc(copy, "repro")
    assert stages_run(ran) == {"train@real-nvp-2-0", "evaluate@real-nvp-2-0", "interpolate", "report"}
