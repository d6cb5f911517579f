"""Every preset through all stages, shrunk to seconds: real images in a folder, other sets as small files."""

import csv
import tarfile

import pytest
from datafiles import WRITERS, extract, put_on_disk
from killing import NO_PROXY
from PIL import Image
from project import ROOT, command, copy_project, dvc, edit_params, stage
from ruamel.yaml import YAML

from flowvae.data.arrays import read_metadata
from pipeline.params.reading import load_params
from pipeline.study.points import study_problems

PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))
NUM_IMAGES = 100  # of the folder, for training and for test


def put_preset(project, name):
    (project / "presets").mkdir()
    (project / "presets" / f"{name}.yaml").write_bytes((ROOT / "presets" / f"{name}.yaml").read_bytes())
    ran = command(project, "python", "-m", "pipeline.preset", name)
    assert " -> " in ran.stdout
    edit_params(project, shrink)


def shrink(params):
    """Shrink to seconds per stage, and keep the data, the likelihood, and the kinds of networks and flows."""
    for network in (params["model"]["encoder"], params["model"]["decoder"]):
        network["channels"] = [4] * len(network["channels"])
        if "num_blocks" in network:
            network["num_blocks"] = 1
    params["training"].update(epochs=1, min_steps=0, batch_size=16, precision="float32", average_decay=0.5)
    params["evaluation"].update(num_elbo_samples=2, num_importance_samples=2, num_nll_images=5, num_figure_images=4)
    params["interpolation"].update(num_pairs=2, num_steps=3)
    for variant in params["variants"].values():
        for flow in variant.values():
            shallow(flow)
    for study in params["studies"].values():
        for family in study["families"].values():
            for flow in family.values():
                shallow(flow)
        study["families"] = dict(list(study["families"].items())[-2:])
        study["settings"]["training"].update(epochs=1)


def shallow(flow):
    if "num_transforms" in flow:
        flow["num_transforms"] = 1 if isinstance(flow["num_transforms"], int) else [1]
    for key, value in (("hidden_features", [8]), ("hidden_channels", 4), ("num_blocks", 1)):
        if key in flow:
            flow[key] = value


def check_results(project, image_shape):
    assert list(read_metadata(project / "data/prepared").image_shape) == image_shape
    with (project / "reports/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == list(YAML().load(project / "params.yaml")["variants"])
    for row in rows:
        assert 0 < float(row["nll_bits_per_dim"]) < 10
    with Image.open(project / f"reports/figures/samples/{rows[-1]['variant']}-0.png") as figure:
        assert figure.mode == ("RGB" if image_shape[0] == 3 else "L")
    assert "bits/dim" in (project / "reports/results.md").read_text()
    for study in YAML().load(project / "params.yaml")["studies"]:
        assert (project / f"reports/figures/studies/{study}.png").is_file()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits(tmp_path, name):
    project = copy_project(tmp_path / "project", git=False)
    (project / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    command(project, "python", "-m", "pipeline.preset", str(ROOT / "presets" / f"{name}.yaml"))
    assert list(study_problems(load_params(project / "params.yaml"))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own-images", "own-images-laptop", "cifar10"])
def test_on_the_pictures_of_cifar10_in_a_folder(data_root, tmp_path, name):
    """With one command, as a user does; also the preset of CIFAR10, with the folder instead of the data set."""
    project = copy_project(tmp_path / "project", git=True)
    put_preset(project, name)
    with tarfile.open(data_root / "cifar10-png-11k.tar") as archive:
        members = [member for member in archive if member.name.endswith(".png")]
        for part in ("/train/", "/test/"):
            chosen = [member for member in members if part in member.name][:NUM_IMAGES]
            extract(archive, tmp_path, chosen)
    edit_params(project, lambda params: params["data"].update(name="folder"))
    edit_params(project, lambda params: params["data"]["folder"].update(path=str(tmp_path / "cifar10")))
    dvc(project, "repro", **NO_PROXY)
    check_results(project, [3, 32, 32])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "image_shape"), [("svhn", [3, 32, 32]), ("celeba", [3, 64, 64]), ("fashion-mnist", [1, 28, 28])]
)
def test_on_small_files_in_the_formats_of_the_set(run_stage, tmp_path, monkeypatch, name, image_shape):
    """fetch and prepare know the checksums of these files only in this process; the other stages run as usual."""
    assert name in WRITERS
    project = copy_project(tmp_path / "project", git=False)
    put_preset(project, name)
    put_on_disk(name, tmp_path / "root", monkeypatch)
    for each in ("fetch", "prepare"):
        assert run_stage(project, each, FLOWVAE_DATA_ROOT=str(tmp_path / "root")) == (0, [])
    variants = list(YAML().load(project / "params.yaml")["variants"])
    studies = [("study", "--name", name) for name in YAML().load(project / "params.yaml")["studies"]]
    runs = [(each, "--variant", variant, "--seed", "0") for variant in variants for each in ("train", "evaluate")]
    for arguments in (*runs, ("interpolate",), *studies, ("report",)):
        ran = stage(project, *arguments, **NO_PROXY)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    check_results(project, image_shape)
