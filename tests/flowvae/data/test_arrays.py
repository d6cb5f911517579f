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

from flowvae.data.arrays import METADATA, memory_map, open_images, open_labels, read_metadata
from flowvae.data.images import ImageSet
from flowvae.datasets.raw import RawArrays, RawDataset
from flowvae.datasets.writing import Provenance, write_arrays
from flowvae.errors import InputError
from flowvae.training.batches import gather_batches

CPU = torch.device("cpu")
LABELS = np.array([7, 2], dtype=np.uint8)
PROVENANCE = Provenance(
    source="a test",
    binarization="static",
    binarization_seed=0,
    corrupt={"train": 0, "valid": 1, "test": 0},
    fingerprint=None,
    banner=None,
)
METADATA_OF_THE_DATASET = {"dataset": "ramps", "origin": "this file", "split": "5 / 3 / 2", "processing": "none"}


def arrays():
    """Random bits of each split, which differ between the splits."""
    draws = torch.Generator().manual_seed(0)
    return {
        split: torch.bernoulli(ramp(n).float() / 255, generator=draws).to(torch.uint8)
        for split, n in [("train", 5), ("valid", 3), ("test", 2)]
    }


def write(folder, labels=LABELS, binarization="static"):
    images = {split: RawArrays.of(pixels.numpy()) for split, pixels in arrays().items()}
    dataset = RawDataset(images, labels, **METADATA_OF_THE_DATASET)
    return write_arrays(folder, dataset, lambda chunks, split: chunks, replace(PROVENANCE, binarization=binarization))


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
    assert metadata.model_dump().items() >= (METADATA_OF_THE_DATASET | vars(PROVENANCE)).items()


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


@pytest.mark.parametrize("name", ["train.npy", METADATA])
def test_missing_file(folder, name):
    (folder / name).unlink()
    assert_refused(folder, name)


def test_nothing_prepared(tmp_path):
    assert_refused(tmp_path / "missing", METADATA)


def edit_metadata(folder, edit):
    metadata = json.loads((folder / METADATA).read_text())
    edit(metadata)
    (folder / METADATA).write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    "edit",
    [
        lambda metadata: metadata.pop("dataset"),
        lambda metadata: metadata.update(extra=1),
        lambda metadata: metadata.update(counts="many"),
    ],
    ids=["missing key", "unknown key", "wrong type"],
)
def test_wrong_metadata(folder, edit):
    edit_metadata(folder, edit)
    assert_refused(folder, METADATA)


@pytest.mark.parametrize("section", ["sha256", "counts"])
def test_metadata_without_a_split(folder, section):
    edit_metadata(folder, lambda metadata: metadata[section].pop("train"))
    assert_refused(folder, METADATA)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_metadata_that_are_not_json(folder, content):
    (folder / METADATA).write_bytes(content)
    assert_refused(folder, METADATA)


@pytest.mark.parametrize("change", [{"counts": {"train": 6, "valid": 3, "test": 2}}, {"image_shape": [1, 16, 8]}])
def test_metadata_of_another_shape(folder, change):
    edit_metadata(folder, lambda metadata: metadata.update(change))
    assert_refused(folder, "train.npy")
