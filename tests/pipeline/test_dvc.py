"""The pipeline under real DVC: what a change re-runs, what it leaves alone, and what DVC's commands show."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import (
    EVALUATED,
    KEYS,
    TRAINED,
    VARIANTS,
    command,
    commit,
    copy_project,
    dvc,
    edit_params,
    stages_run,
)

from pipeline.trials import SPEED

SECOND_SEED = {f"{stage}@{variant}-1" for stage in ("train", "evaluate") for variant in VARIANTS}
PLANAR_8 = {"flow": "planar", "num_transforms": 8, "amortised": False}

# what changes in params.yaml: (edit, stages whose own inputs it changes)
EDITS = {
    "depth of one variant": (lambda p: p["variants"]["planar-4"].update(num_transforms=3), {"train@planar-4-0"}),
    "epochs": (lambda p: p["training"].update(epochs=2), TRAINED),
    "seed of evaluation": (lambda p: p["evaluation"].update(seed=1), EVALUATED),
    "path": (lambda p: p["interpolation"].update(path="linear"), {"interpolate"}),
    "binarization": (lambda p: p["data"].update(binarization="dynamic"), {"prepare"}),
    "another seed": (lambda p: p.update(seeds=[0, 1]), SECOND_SEED),
    "another variant": (
        lambda p: p["variants"].update({"planar-8": PLANAR_8}),
        {"train@planar-8-0", "evaluate@planar-8-0"},
    ),
}
CODE = {
    "flowvae/interpolation.py": {"interpolate"},
    "flowvae/training.py": TRAINED,
    "flowvae/flows/planar.py": TRAINED | EVALUATED | {"interpolate"},
    "pipeline/report/table.py": {"report"},
    "pipeline/progress.py": set(),
}


def changed(project: Path) -> set[str]:
    """Stages whose own params, code or files changed; what follows from new outputs shows in a run alone."""
    return set(json.loads(dvc(project, "status", "--json").stdout)) - {"fetch"}


def append_comment(path: Path) -> None:
    path.write_text(path.read_text() + "\n# another line\n")


@pytest.mark.parametrize(("edit", "stages"), EDITS.values(), ids=EDITS)
def test_param_concerns_its_stages_alone(copy, edit: Callable[[Any], None], stages):
    edit_params(copy, edit)
    assert changed(copy) - {"report", "interpolate"} == stages - {"interpolate"}
    assert "interpolate" not in stages or "interpolate" in changed(copy)


@pytest.mark.parametrize(("file", "stages"), CODE.items(), ids=CODE)
def test_code_concerns_its_stages_alone(copy, file, stages):
    append_comment(copy / file)
    assert changed(copy) == stages


def test_experiment_on_one_variant_runs_that_variant_alone(copy):
    """And what DVC shows of it: metrics, their differences, the experiment, the plots."""
    before = json.loads((copy / "metrics/planar-4-0.json").read_text())
    ran = dvc(copy, "exp", "run", "--name", "deeper", "--set-param", "variants.planar-4.num_transforms=3")
    assert stages_run(ran) == {"train@planar-4-0", "evaluate@planar-4-0", "report"}
    after = json.loads((copy / "metrics/planar-4-0.json").read_text())
    assert after["parameters"] > before["parameters"]

    shown = json.loads(dvc(copy, "metrics", "show", "--json").stdout)
    files = shown[""]["data"]
    assert set(files) == {f"metrics/{key}.json" for key in KEYS}
    assert files["metrics/planar-4-0.json"]["data"] == after
    difference = json.loads(dvc(copy, "metrics", "diff", "--json").stdout)
    assert set(difference) == {"metrics/planar-4-0.json"}
    assert difference["metrics/planar-4-0.json"]["parameters"]["old"] == before["parameters"]
    assert "deeper" in dvc(copy, "exp", "list", "--name-only").stdout.split()

    dvc(copy, "plots", "show", "--out", "plots")
    page = (copy / "plots/index.html").read_text()
    assert all(key in page for key in KEYS)
    assert "interpolation.png" in page and "nll_against_depth.png" in page


@pytest.fixture
def clone(copy, tmp_path) -> Path:
    """A fresh clone whose cache came from a remote."""
    dvc(copy, "remote", "add", "--default", "store", str(tmp_path / "remote"))
    commit(copy)
    assert "pushed" in dvc(copy, "push").stdout
    command(copy, "git", "clone", "--quiet", str(copy), str(tmp_path / "clone"))
    return tmp_path / "clone"


def test_a_fresh_clone_pulls_and_runs_fetch_alone(clone):
    assert not (clone / "models").exists()
    dvc(clone, "pull")
    assert changed(clone) == set()
    assert (clone / "models/vae-0/model.safetensors").is_file()
    ran = dvc(clone, "repro")
    assert stages_run(ran) == set()
    assert "Running stage 'fetch'" in ran.stdout + ran.stderr
    assert command(clone, "git", "status", "--porcelain").stdout == ""


@pytest.mark.slow
def test_a_damaged_model_is_replaced_from_the_cache(copy):
    """What the error messages advise: run dvc repro."""
    model = copy / "models/planar-4-0/model.safetensors"
    good = model.read_bytes()
    model.unlink()
    model.write_bytes(good[:100])
    dvc(copy, "repro", "train@planar-4-0")
    assert model.read_bytes() == good
    assert changed(copy) == set()


def test_prepared_mnist_comes_with_the_data_and_stays_without(copy, data_root):
    """Better data are noticed, and never exchanged for less."""
    ran = dvc(copy, "repro", "prepare", FLOWVAE_DATA_ROOT=str(data_root))
    assert stages_run(ran) == {"prepare"}
    metadata = (copy / "data/prepared/metadata.json").read_text()
    assert json.loads(metadata)["counts"] == {"train": 50_000, "valid": 10_000, "test": 10_000}
    assert json.loads(metadata)["banner"] is None
    assert stages_run(dvc(copy, "repro", "prepare")) == set()
    assert (copy / "data/prepared/metadata.json").read_text() == metadata


@pytest.mark.slow
def test_a_copy_without_git_makes_the_same_bytes(reproduced, tmp_path):
    """From nothing, in another folder, with the option that the Makefile sets where there is no git.

    Only the speeds of the stability study are its own, so the other's take their place before all is compared.
    """
    project = copy_project(tmp_path / "elsewhere", git=False)
    dvc(project, "config", "--local", "core.no_scm", "true")
    dvc(project, "repro")
    assert without_speeds(project) == without_speeds(reproduced.folder)
    for file in ("stability.csv", "figures/stability.png"):
        shutil.copyfile(reproduced.folder / "reports" / file, project / "reports" / file)
    dvc(project, "commit", "--force", "stability")
    dvc(project, "repro")
    assert (project / "dvc.lock").read_text() == (reproduced.folder / "dvc.lock").read_text()
    for file in ("results.csv", "results.md", "index.html"):
        assert (project / "reports" / file).read_bytes() == (reproduced.folder / "reports" / file).read_bytes()


def without_speeds(project: Path) -> list[dict[str, str]]:
    with (project / "reports/stability.csv").open() as file:
        return [{name: value for name, value in row.items() if name != SPEED} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_another_seed_trains_new_runs_alone(copy):
    edit_params(copy, lambda params: params.update(seeds=[0, 1]))
    assert stages_run(dvc(copy, "repro")) == SECOND_SEED | {"interpolate", "report"}
    lines = (copy / "reports/results.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:4:3] for line in lines] == [[variant, seed] for variant in VARIANTS for seed in "01"]
    assert "(sd " in (copy / "reports/results.md").read_text()


@pytest.mark.slow
def test_an_experiment_on_the_learning_rate_retrains_all(copy):
    ran = dvc(copy, "exp", "run", "--set-param", "training.learning_rate=0.001")
    assert stages_run(ran) == TRAINED | EVALUATED | {"interpolate", "report"}
    assert set(json.loads(dvc(copy, "metrics", "diff", "--json").stdout)) == {f"metrics/{key}.json" for key in KEYS}


@pytest.mark.slow
def test_evaluation_and_interpolation_retrain_nothing(copy):
    edit_params(copy, lambda params: params["evaluation"].update(seed=1))
    append_comment(copy / "flowvae/interpolation.py")
    assert stages_run(dvc(copy, "repro")) == EVALUATED | {"interpolate", "report"}


@pytest.mark.slow
def test_interpolate_follows_the_variants_that_it_shows(copy):
    edit_params(copy, lambda params: params["variants"]["real-nvp-2"].update(num_transforms=2))
    ran = dvc(copy, "repro")
    assert stages_run(ran) == {"train@real-nvp-2-0", "evaluate@real-nvp-2-0", "interpolate", "report"}
