"""fetch and prepare for every data set, from small files in the formats of the real ones."""

import json
import os
import shutil
import signal
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from datafiles import WRITERS, put_on_disk, random_pixels
from killing import a_moment, start_stage, wait_for
from PIL import Image
from project import (
    EVALUATED,
    ROOT,
    STUDIES,
    TRAINED,
    copy_project,
    dvc,
    edit_params,
    settings_only,
    stages_run,
)

from flowvae.data.arrays import DESCRIPTIONS, read_metadata
from flowvae.datasets import decoding
from flowvae.datasets import write_images as write_arrays
from flowvae.datasets.decoding import JOURNAL
from flowvae.datasets.registry import DATASETS

GREY = ("fashion-mnist", "kmnist", "emnist", "omniglot", "omniglot-burda", "caltech101-silhouettes")


def choose(project, name, binarization="none", **sections):
    """Change data.name, and the settings that must fit."""

    def edit(params):
        params["data"].update(name=name, binarization=binarization)
        params["model"]["likelihood"] = {"name": "discretized_logistic" if binarization == "none" else "bernoulli"}
        for section, changes in sections.items():
            if isinstance(changes, dict):
                params["data"][section].update(changes)
            else:
                params["data"][section] = changes

    edit_params(project, edit)


@pytest.fixture
def project(tmp_path):
    """A folder with only params.yaml and dvc.yaml."""
    return settings_only(tmp_path)


def write_images(folder, count, size=(12, 12), start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        Image.fromarray(random_pixels(*size, 3, seed=i)).save(folder / f"{i:05d}.png")


@pytest.fixture
def images(tmp_path):
    write_images(tmp_path / "images", 60)
    return tmp_path / "images"


def metadata_of(project):
    return read_metadata(project / "data/prepared")


def source_of(project):
    return json.loads((project / "data/prepared/source.json").read_text())


def load(project, name):
    return np.load(project / f"data/prepared/{name}.npy")


@pytest.mark.parametrize("name", WRITERS)
def test_a_data_set_is_selected_by_its_name(project, run_stage, tmp_path, monkeypatch, name):
    put_on_disk(name, tmp_path / "root", monkeypatch)
    choose(project, name)
    for stage in ("fetch", "prepare"):
        assert run_stage(project, stage, FLOWVAE_DATA_ROOT=str(tmp_path / "root")) == (0, [])
    metadata = metadata_of(project)
    assert source_of(project) == {"source": name, "fingerprint": None} and metadata.provenance.banner is None
    assert metadata.binarization == "none" and metadata.provenance.corrupt == {"train": 0, "valid": 0, "test": 0}
    for split, count in metadata.counts.items():
        assert load(project, split).shape == (count, *metadata.image_shape) and count > 0
        assert load(project, split).max() > 250
    assert len(load(project, "test_labels")) == metadata.counts["test"]
    assert not list((project / "checkpoints").glob("*"))


@pytest.mark.parametrize("name", GREY)
@pytest.mark.parametrize("binarization", ["static", "threshold", "dynamic"])
def test_grey_sets_become_bits(project, run_stage, tmp_path, monkeypatch, name, binarization):
    put_on_disk(name, tmp_path / "root", monkeypatch)
    choose(project, name, binarization)
    for stage in ("fetch", "prepare"):
        assert run_stage(project, stage, FLOWVAE_DATA_ROOT=str(tmp_path / "root")) == (0, [])
    assert load(project, "train").max() == (255 if binarization == "dynamic" else 1)
    assert metadata_of(project).binarization == binarization


@pytest.mark.parametrize("binarization", ["static", "threshold"])
def test_silhouettes_are_these_bits_under_every_binarization(project, run_stage, tmp_path, monkeypatch, binarization):
    written = put_on_disk("caltech101-silhouettes", tmp_path / "root", monkeypatch)
    choose(project, "caltech101-silhouettes", binarization)
    for stage in ("fetch", "prepare"):
        assert run_stage(project, stage, FLOWVAE_DATA_ROOT=str(tmp_path / "root")) == (0, [])
    assert np.array_equal(255 * load(project, "train"), written["train"])


@pytest.mark.parametrize("name", WRITERS)
def test_an_unavailable_data_set(project, complaint, tmp_path, name):
    """One line says which files to put where."""
    choose(project, name)
    (tmp_path / "root").mkdir()
    line = complaint(project, "fetch", FLOWVAE_DATA_ROOT=str(tmp_path / "root"))
    assert str(tmp_path / "root") in line and "data/raw" in line
    assert ("no mirror answers" in line) == DATASETS[name].can_be_downloaded
    assert "put " in line and "FLOWVAE_DATA_ROOT" in line


def test_celeba_says_which_files_go_where(project, complaint):
    choose(project, "celeba")
    line = complaint(project, "fetch")
    assert "img_align_celeba" in line and "list_eval_partition.txt" in line and "into FOLDER/celeba" in line


def test_prepared_images_are_kept_without_their_source_files(project, run_stage, tmp_path, monkeypatch):
    put_on_disk("svhn", tmp_path / "root", monkeypatch)
    choose(project, "svhn")
    for stage in ("fetch", "prepare"):
        run_stage(project, stage, FLOWVAE_DATA_ROOT=str(tmp_path / "root"))
    before = (project / "data/source.json").read_bytes()
    assert run_stage(project, "fetch") == (0, [])
    assert (project / "data/source.json").read_bytes() == before


def test_a_folder_of_images(project, run_stage, images):
    choose(project, "folder", folder={"path": str(images), "size": [8, 12]})
    for stage in ("fetch", "prepare"):
        assert run_stage(project, stage) == (0, [])
    metadata = metadata_of(project)
    assert metadata.counts == {"train": 53, "valid": 2, "test": 5} and metadata.image_shape == (3, 8, 12)
    assert metadata.provenance.dataset == "folder images" and str(images) not in metadata.model_dump_json()
    assert source_of(project) == json.loads((project / "data/source.json").read_text())
    choose(project, "folder", "static", folder={"path": os.path.relpath(images, project), "color": False})
    for stage in ("fetch", "prepare"):
        assert run_stage(project, stage) == (0, [])
    assert load(project, "train").shape == (53, 1, 8, 12) and load(project, "train").max() == 1


def test_the_split_and_the_files_that_are_passed_over_are_printed(project, run_stage, images):
    (images / "notes.txt").write_text("no image")
    choose(project, "folder", folder={"path": str(images)})
    run_stage(project, "fetch")
    with redirect_stdout(StringIO()) as printed:
        assert run_stage(project, "prepare") == (0, [])
    lines = printed.getvalue().splitlines()
    drawn = "0.1 of all images drawn for test, 0.1 of the rest drawn for validation, by their names (seed 0)"
    assert lines[-2:] == [f"prepare: split: {drawn}", "prepare: 1 file passed over: 1 .txt"]


def test_arrays_from_python(project, run_stage, tmp_path):
    """Written in Python, read by the pipeline, and noticed when they change."""
    pixels = random_pixels(60, 8, 12)
    shape = write_arrays(tmp_path / "arrays", train=pixels[:40], test=pixels[40:])
    arrays = {"path": str(tmp_path / "arrays"), "shape": list(shape)}
    choose(project, "arrays", "threshold", arrays=arrays)
    for stage in ("fetch", "prepare"):
        assert run_stage(project, stage) == (0, [])
    assert np.array_equal(load(project, "test")[:, 0], pixels[40:] > 127)
    assert str(tmp_path) not in metadata_of(project).model_dump_json()
    before = source_of(project)
    np.save(tmp_path / "arrays/test.npy", pixels[:20])
    run_stage(project, "fetch")
    assert json.loads((project / "data/source.json").read_text()) != before


def test_arrays_of_another_shape(project, run_stage, complaint, tmp_path):
    write_arrays(tmp_path / "arrays", random_pixels(60, 8, 12))
    choose(project, "arrays", "threshold", arrays={"path": str(tmp_path / "arrays"), "shape": [1, 8, 8]})
    run_stage(project, "fetch")
    assert complaint(project, "prepare").startswith("data.arrays.shape: [1, 8, 8] does not fit ")


def test_no_arrays(project, complaint):
    choose(project, "arrays", arrays={"path": "nowhere"})
    assert complaint(project, "fetch").startswith(f"data.arrays.path: {project / 'nowhere'} does not exist; ")


@pytest.mark.parametrize("split", ["valid", "test"])
def test_too_few_images(project, run_stage, complaint, tmp_path, split):
    """With one test image everything would be trained, and no score would have an error."""
    write_images(tmp_path / "few/train", 8)
    write_images(tmp_path / "few/valid", 1 if split == "valid" else 2)
    write_images(tmp_path / "few/test", 1)
    choose(project, "folder", folder={"path": str(tmp_path / "few")})
    run_stage(project, "fetch")
    line = complaint(project, "prepare")
    assert line.startswith(f"data: folder few: expected at least 2 images for {split}, got 1 (8 train, ")
    assert not (project / "data/prepared").exists()


def test_too_few_images_because_others_are_unreadable(project, run_stage, tmp_path):
    for split in ("train", "valid", "test"):
        write_images(tmp_path / f"few/{split}", 3)
    for i in (0, 1):
        (tmp_path / f"few/test/{i:05d}.png").write_bytes(b"no image")
    choose(project, "folder", folder={"path": str(tmp_path / "few")}, max_corrupt=0.5)
    run_stage(project, "fetch")
    code, (*skipped, line) = run_stage(project, "prepare")
    assert code == 1 and "for test, got 1 (3 train, 3 valid, 1 test, 2 unreadable; " in line
    assert skipped == [
        f"prepare: skipped {tmp_path / f'few/test/{i:05d}.png'}: cannot identify image file" for i in (0, 1)
    ]


@pytest.mark.parametrize("path", ["nowhere", "params.yaml"])
def test_a_path_that_is_no_folder(project, complaint, path):
    choose(project, "folder", folder={"path": path})
    assert complaint(project, "fetch").startswith(f"data.folder.path: {project / path}: cannot be read")


@pytest.fixture
def some_corrupt(images):
    """A folder of 60 images, of which 3 cannot be read."""
    for i in (7, 8, 50):
        (images / f"{i:05d}.png").write_bytes(b"no image")
    return images


def test_corrupt_images_are_refused(project, run_stage, complaint, some_corrupt):
    choose(project, "folder", folder={"path": str(some_corrupt)})
    run_stage(project, "fetch")
    line = complaint(project, "prepare")
    assert line.startswith(
        "data.max_corrupt: 3 of 60 images cannot be read, and the limit is a fraction of 0.0; the first is "
    )
    assert str(some_corrupt) in line and "logs/prepare/corrupt.txt lists all" in line
    listed = (project / "logs/prepare/corrupt.txt").read_text().splitlines()
    assert {Path(entry.partition(": ")[0]).name for entry in listed} == {"00007.png", "00008.png", "00050.png"}
    assert not (project / "data/prepared").exists()
    for entry in listed:
        Path(entry.partition(": ")[0]).unlink()
    run_stage(project, "fetch")
    assert run_stage(project, "prepare").code == 0
    assert not (project / "logs/prepare/corrupt.txt").exists()  # the list of the failed run


def test_corrupt_images_below_the_limit_are_skipped_and_reported(project, run_stage, some_corrupt):
    choose(project, "folder", folder={"path": str(some_corrupt)}, max_corrupt=0.05)
    run_stage(project, "fetch")
    code, errors = run_stage(project, "prepare")
    assert code == 0 and len(errors) == 4
    assert sum(line.startswith(f"prepare: skipped {some_corrupt}") for line in errors) == 3
    metadata = metadata_of(project)
    assert sum(metadata.counts.values()) == 57 and sum(metadata.provenance.corrupt.values()) == 3
    assert errors[-1] == metadata.provenance.banner
    assert errors[-1].startswith("CORRUPT IMAGES SKIPPED: 3 of 60 images could not be read (")
    assert len(load(project, "test_labels")) == metadata.counts["test"]


def test_with_a_higher_limit_only_chunks_with_corrupt_images_are_decoded_again(
    project, run_stage, some_corrupt, monkeypatch
):
    """Corrupt files may have been repaired in the meantime; all other chunks are reused as they are on disk."""
    monkeypatch.setattr(decoding, "CHUNK", 10)
    choose(project, "folder", folder={"path": str(some_corrupt)})
    run_stage(project, "fetch")
    assert run_stage(project, "prepare").code == 1
    (decoded,) = (project / "checkpoints").iterdir()
    lines = map(json.loads, filter(None, (decoded / JOURNAL).read_text().splitlines()))
    undamaged = {start for split, start, corrupt in lines if split == "train" and not corrupt}
    (decoded / "train.raw").write_bytes(b"M" * (decoded / "train.raw").stat().st_size)
    choose(project, "folder", max_corrupt=0.5)
    assert run_stage(project, "prepare").code == 0
    reused = (load(project, "train") == ord("M")).all((1, 2, 3))
    metadata = metadata_of(project)
    num_train = metadata.counts["train"] + metadata.provenance.corrupt["train"]
    assert reused.sum() == sum(min(10, num_train - start) for start in undamaged)
    assert reused.any() and not reused.all()
    assert not decoded.exists()


@pytest.fixture
def tracked(tmp_path, images):
    """A project under DVC on a folder of 60 images."""
    folder = copy_project(tmp_path / "tracked", git=True)
    choose(folder, "folder", folder={"path": str(images), "size": [8, 8]})
    return folder


def test_a_new_image_is_noticed(tracked, images):
    assert stages_run(dvc(tracked, "repro", "prepare")) == {"prepare"}
    assert stages_run(dvc(tracked, "repro", "prepare")) == set()
    write_images(images, 10, start=60)
    assert stages_run(dvc(tracked, "repro", "prepare")) == {"prepare"}
    assert sum(metadata_of(tracked).counts.values()) == 70


@pytest.mark.slow
def test_training_depends_on_the_arrays_alone(tmp_path):
    """Neither on times nor on the place of the images, nor on those of the test set."""
    for split, count in (("train", 40), ("valid", 6), ("test", 8)):
        write_images(tmp_path / "images" / split, count)
    project = copy_project(tmp_path / "project", git=True)
    choose(project, "folder", folder={"path": str(tmp_path / "images"), "size": [8, 8]})
    everything = stages_run(dvc(project, "repro"))
    assert TRAINED | EVALUATED | STUDIES | {"prepare", "interpolate", "report"} == everything
    for path in (tmp_path / "images").rglob("*.png"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert stages_run(dvc(project, "repro")) == {"prepare"}
    shutil.copytree(tmp_path / "images", tmp_path / "elsewhere/images")
    choose(project, "folder", folder={"path": str(tmp_path / "elsewhere/images")})
    assert stages_run(dvc(project, "repro")) == {"prepare"}
    write_images(tmp_path / "elsewhere/images/test", 1, start=100)
    assert stages_run(dvc(project, "repro")) == everything - TRAINED


PREPARED = ("train.npy", "valid.npy", "test.npy", "test_labels.npy", *DESCRIPTIONS)


def test_a_killed_prepare_resumes_and_writes_the_bytes_of_an_uninterrupted_one(project, run_stage, tmp_path):
    """Killed by SIGKILL at random moments. DVC empties the folder of the arrays before each run."""
    write_images(tmp_path / "images", 1200, size=(200, 200))
    choose(project, "folder", folder={"path": str(tmp_path / "images"), "size": [64, 64]})
    for stage in ("fetch", "prepare"):
        assert run_stage(project, stage).code == 0
    expected = [(project / "data/prepared" / name).read_bytes() for name in PREPARED]
    kills = 0
    while True:
        shutil.rmtree(project / "data/prepared", ignore_errors=True)
        process = start_stage(project, "prepare", PYTHONPATH=str(ROOT))
        started = wait_for(lambda: list((project / "checkpoints").glob(f"prepare-*/{JOURNAL}")), process)
        assert started or process.wait() == 0, (project / "output.txt").read_text()
        if kills == 4:
            break
        a_moment(0.7)
        os.kill(process.pid, signal.SIGKILL)
        kills += process.wait() != 0
    assert process.wait(60) == 0, (project / "output.txt").read_text()
    assert [(project / "data/prepared" / name).read_bytes() for name in PREPARED] == expected
    assert not list((project / "checkpoints").iterdir())
