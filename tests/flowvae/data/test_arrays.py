"""Arrays on disk: what was written is read, and every kind of damage is detected."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import ramp

from flowvae.data.arrays import PROVENANCE, SOURCE, memory_map, open_images, open_labels, read_metadata
from flowvae.data.images import ImageSet
from flowvae.datasets.raw import RawArrays, RawDataset
from flowvae.datasets.writing import Preparation, write_arrays
from flowvae.errors import InputError
from flowvae.training.batches import gather_batches

CPU = torch.device("cpu")
LABELS = np.array([7, 2], dtype=np.uint8)
PREPARATION = Preparation(
    source={"source": "a test"},
    binarization="static",
    binarization_seed=0,
    corrupt={"train": 0, "valid": 1, "test": 0},
    banner=None,
)
OF_THE_DATASET = {"dataset": "ramps", "origin": "this file", "split": "5 / 3 / 2", "processing": "none"}


def arrays():
    """Random bits of each split, which differ between the splits."""
    draws = torch.Generator().manual_seed(0)
    return {
        split: torch.bernoulli(ramp(n).float() / 255, generator=draws).to(torch.uint8)
        for split, n in [("train", 5), ("valid", 3), ("test", 2)]
    }


def write(folder, labels=LABELS, binarization="static"):
    images = {split: RawArrays.of(pixels.numpy()) for split, pixels in arrays().items()}
    dataset = RawDataset(images, labels, **OF_THE_DATASET)
    return write_arrays(folder, dataset, lambda chunks, split: chunks, replace(PREPARATION, binarization=binarization))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "data")
    return tmp_path / "data"


def test_arrays_are_read_as_they_were_written(folder):
    for split in ("train", "valid", "test"):
        images = open_images(folder, split, CPU)
        assert torch.equal(images.pixels, arrays()[split]) and images.reading == "bits"
        assert images.device == CPU
    assert torch.equal(open_labels(folder), torch.from_numpy(LABELS))
    metadata = read_metadata(folder)
    assert metadata.counts == {"train": 5, "valid": 3, "test": 2} and metadata.image_shape == (1, 16, 16)
    assert metadata.binarization == "static"
    assert metadata.provenance.model_dump() == OF_THE_DATASET | {
        "binarization_seed": 0,
        "corrupt": {"train": 0, "valid": 1, "test": 0},
        "banner": None,
    }
    assert json.loads((folder / SOURCE).read_text()) == {"source": "a test"}


def test_writing_to_an_opened_array_does_not_change_the_file(folder):
    code = (
        "import sys, torch; from pathlib import Path; from flowvae.data.arrays import open_images\n"
        "open_images(Path(sys.argv[1]), 'train', torch.device('cpu')).pixels.fill_(1)"
    )
    before = (folder / "train.npy").read_bytes()
    assert subprocess.run([sys.executable, "-c", code, folder], check=False).returncode < 0
    assert (folder / "train.npy").read_bytes() == before


def test_an_array_larger_than_memory_is_mapped(tmp_path):
    """The array consists of zeros, which need no space on the disk."""
    path = tmp_path / "large.npy"
    num_images = 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (3 * 64 * 64)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (num_images, 3, 64, 64)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + num_images * 3 * 64 * 64)
    images = ImageSet(memory_map(path), "levels")
    batches = torch.tensor([0, num_images - 1]), torch.tensor([num_images // 2])
    assert len(images) == num_images
    assert [pixels.sum() for _, pixels in gather_batches(images, batches, lambda size: slice(size))] == [0, 0]


def test_files_are_those_that_numpy_writes(folder, tmp_path):
    for split, pixels in arrays().items():
        np.save(tmp_path / f"{split}.npy", pixels.numpy())
        assert (folder / f"{split}.npy").read_bytes() == (tmp_path / f"{split}.npy").read_bytes()


@pytest.mark.parametrize(
    ("binarization", "reading"),
    [("dynamic", "dynamic"), ("none", "levels"), ("threshold", "bits"), ("larochelle", "bits")],
)
def test_the_reading_follows_from_the_binarization(tmp_path, binarization, reading):
    write(tmp_path, binarization=binarization)
    assert open_images(tmp_path, "train", CPU).reading == reading


def test_labels_above_255(tmp_path):
    write(tmp_path, labels=np.array([7, 10_177]))
    assert open_labels(tmp_path).tolist() == [7, 10_177]


def assert_refused(folder, name, split="train"):
    """Opening a split, or the labels if it is None, fails with one line that names the file."""
    with pytest.raises(InputError) as caught:
        open_labels(folder) if split is None else open_images(folder, split, CPU)
    assert str(folder / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: content + b"0"])
def test_array_of_another_length(folder, damage):
    path = folder / "train.npy"
    path.write_bytes(damage(path.read_bytes()))
    assert_refused(folder, "train.npy")
    assert len(open_images(folder, "valid", CPU)) == 3  # the others can still be opened


def test_flipped_bit(folder):
    for name, split in [("train", "train"), ("test_labels", None)]:
        path = folder / f"{name}.npy"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        assert_refused(folder, f"{name}.npy", split)


def test_array_of_another_run(folder):
    np.save(folder / "train.npy", ramp(5).numpy())
    assert_refused(folder, "train.npy")


@pytest.mark.parametrize("name", ["train.npy", "train.json"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    assert_refused(folder, name)
    assert len(open_images(folder, "valid", CPU)) == 3  # it depends on its own files only


def test_nothing_prepared(tmp_path):
    assert_refused(tmp_path / "missing", "train.json")


def edit_info(folder, edit, name="train.json"):
    info = json.loads((folder / name).read_text())
    edit(info)
    (folder / name).write_text(json.dumps(info))


@pytest.mark.parametrize(
    "edit",
    [
        lambda info: info.pop("sha256"),
        lambda info: info.update(extra=1),
        lambda info: info.update(shape="many"),
        lambda info: info.update(shape=[5]),
        lambda info: info.update(shape=[0, 1, 16, 16]),
        lambda info: info.update(binarization="by eye"),
        lambda info: info.update(binarization=None),
        lambda info: info.update(sha256="0"),
    ],
    ids=["missing key", "unknown key", "wrong type", "labels", "empty", "binarization", "none", "checksum"],
)
def test_wrong_description(folder, edit):
    edit_info(folder, edit)
    assert_refused(folder, "train.json")


@pytest.mark.parametrize("key", ["dataset", "banner", "corrupt"])
def test_provenance_without_a_key(folder, key):
    edit_info(folder, lambda content: content.pop(key), PROVENANCE)
    with pytest.raises(InputError, match=PROVENANCE):
        read_metadata(folder)
    assert len(open_images(folder, "train", CPU)) == 5


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_description_that_is_not_json(folder, content):
    (folder / "train.json").write_bytes(content)
    assert_refused(folder, "train.json")


@pytest.mark.parametrize("shape", [[6, 1, 16, 16], [5, 1, 16, 8]])
def test_a_description_of_another_shape(folder, shape):
    edit_info(folder, lambda info: info.update(shape=shape))
    assert_refused(folder, "train.npy")
