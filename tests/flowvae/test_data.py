"""Binarization, image sets, and arrays on disk."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from flowvae.data import images
from flowvae.data.arrays import METADATA, mapped, open_images, open_labels, read_metadata, write_arrays
from flowvae.data.batches import gathered
from flowvae.data.binarization import binarize
from flowvae.data.images import ImageSet
from flowvae.data.rows import Rows
from flowvae.errors import InputError

CPU = torch.device("cpu")


def ramp(num_images):
    """Images that hold every grey value once."""
    return torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(num_images, 1, 1, 1)


def bits_of(grey, binarization, seed, split):
    (chunk,) = binarize([grey], binarization, seed, split)
    return chunk


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def binomial_error(num_images):
    probability = ramp(1).double() / 255
    return 5 * (probability * (1 - probability) / num_images).sqrt() + 1e-9


def test_static_bits_have_the_grey_value_as_their_mean():
    bits = bits_of(ramp(4000), "static", 0, 0)
    assert bits.dtype == torch.uint8 and bits.shape == (4000, 1, 16, 16) and set(bits.unique().tolist()) == {0, 1}
    assert ((bits.double().mean(0) - ramp(1)[0] / 255).abs() <= binomial_error(4000)[0]).all()
    assert not bits[..., 0, 0].any() and bits[..., 15, 15].all()


def test_static_bits_are_fixed_by_seed_and_split():
    first = bits_of(ramp(50), "static", 3, 1)
    torch.randn(9)
    assert torch.equal(bits_of(ramp(50), "static", 3, 1), first)
    for seed, split in [(3, 0), (3, 2), (4, 1)]:
        other = bits_of(ramp(50), "static", seed, split).double()
        agreement = (other == first).double().mean()
        assert abs(agreement - 2 / 3) < 0.05  # 1 - 2 E[p (1 - p)] of independent draws, p uniform


def test_threshold():
    bits = bits_of(ramp(1), "threshold", 0, 0).flatten()
    assert bits.dtype == torch.uint8
    assert not bits[:128].any() and bits[128:].all()


@pytest.mark.parametrize("size", [1, 7, 49])
def test_static_bits_do_not_depend_on_the_chunks(size):
    chunks = binarize(ramp(50).split(size), "static", 3, 1)
    assert torch.equal(torch.cat(list(chunks)), bits_of(ramp(50), "static", 3, 1))


@pytest.mark.parametrize("name", ["dynamic", "none"])
def test_grey_values_are_kept(name):
    assert torch.equal(bits_of(ramp(2), name, 0, 0), ramp(2))


@pytest.mark.parametrize("name", ["larochelle", "otsu", ""])
def test_unknown_binarization(name):
    with pytest.raises(ValueError, match=f"expected one of static, threshold, dynamic, none, got {name}"):
        bits_of(ramp(1), name, 0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_of_bits_are_gathered_without_noise(dtype):
    images, before = ImageSet(bits_of(ramp(6), "static", 0, 0), "bits"), noise().get_state()
    generator = noise()
    batch = images.batch(torch.tensor([4, 0, 4]), dtype, generator)
    assert batch.dtype == dtype and torch.equal(batch, images.pixels[[4, 0, 4]].to(dtype))
    assert torch.equal(images.batch(torch.arange(1, 3), dtype, generator), images.pixels[1:3].to(dtype))
    assert torch.equal(generator.get_state(), before)
    assert len(images) == 6 and images.image_shape == (1, 16, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dynamic_batches_are_drawn_at_each_use(dtype):
    images, generator = ImageSet(ramp(4000), "dynamic"), noise()
    first, second = (images.batch(torch.arange(4000), dtype, generator) for _ in range(2))
    assert not torch.equal(first, second) and first.dtype == dtype and set(first.unique().tolist()) == {0, 1}
    assert ((first.double().mean(0) - ramp(1)[0] / 255).abs() <= binomial_error(4000)[0]).all()
    assert torch.equal(images.batch(torch.arange(4000), dtype, noise()), first)
    assert torch.equal(images.pixels, ramp(4000))  # the grey values stay


def test_freezing_draws_once():
    grey = ImageSet(ramp(20), "dynamic")
    frozen = grey.freeze(noise())
    assert frozen.reading == "bits" and frozen.pixels.dtype == torch.uint8
    assert set(frozen.pixels.unique().tolist()) == {0, 1}
    draws = [frozen.batch(torch.arange(20), torch.float32, noise(seed)) for seed in (1, 2)]
    assert torch.equal(*draws)
    assert torch.equal(grey.freeze(noise()).pixels, frozen.pixels)
    assert not torch.equal(grey.freeze(noise(1)).pixels, frozen.pixels)
    assert frozen.freeze(noise(1)) is frozen


@pytest.mark.parametrize("at_once", [1, 7, 19])
def test_what_is_frozen_does_not_depend_on_how_many_are_drawn_at_once(monkeypatch, at_once):
    grey = ImageSet(ramp(20), "dynamic")
    whole = grey.freeze(noise())
    monkeypatch.setattr(images, "FROZEN_AT_ONCE", at_once)
    assert torch.equal(grey.freeze(noise()).pixels, whole.pixels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_are_256_values_from_0_to_1_without_noise(dtype):
    images, generator = ImageSet(ramp(3), "levels"), noise()
    batch = images.batch(torch.tensor([2, 0]), dtype, generator)
    assert batch.dtype == dtype and batch.min() == 0 and batch.max() == 1
    assert torch.equal((batch * 255).round().to(torch.uint8), ramp(2))
    assert torch.equal(batch[0].flatten(), torch.arange(256, dtype=dtype) / 255)
    assert torch.equal(generator.get_state(), noise().get_state())
    assert images.freeze(generator) is images


@pytest.mark.parametrize("reading", ["bits", "dynamic", "levels"])
def test_a_share_is_a_part_of_the_batch(reading):
    images, indices = ImageSet(ramp(9), reading), torch.tensor([8, 3, 3, 0, 5])
    whole = images.batch(indices, torch.float32, noise())
    parts = [images.batch(indices, torch.float32, noise(), slice(*ends)) for ends in ((0, 2), (2, 5))]
    assert torch.equal(torch.cat(parts), whole)


DESCRIPTION = {
    "dataset": "ramps",
    "source": "a test",
    "origin": "this file",
    "binarization": "static",
    "binarization_seed": 0,
    "split": "5 / 3 / 2",
    "processing": "none",
    "corrupt": {"train": 0, "valid": 1, "test": 0},
    "fingerprint": None,
    "banner": None,
}


LABELS = np.array([7, 2], dtype=np.uint8)


def arrays():
    return {name: bits_of(ramp(n), "static", 0, n) for name, n in [("train", 5), ("valid", 3), ("test", 2)]}


def write(folder, labels=LABELS, **changes):
    images = {name: Rows.of(pixels.numpy()) for name, pixels in arrays().items()}
    return write_arrays(folder, images, labels, lambda chunks, split: chunks, **DESCRIPTION | changes)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "data")
    return tmp_path / "data"


def test_arrays_come_back(folder):
    for split in ("train", "valid", "test"):
        images = open_images(folder, split, CPU)
        assert torch.equal(images.pixels, arrays()[split]) and images.reading == "bits"
        assert images.device == CPU
    assert torch.equal(open_labels(folder), torch.from_numpy(LABELS))
    metadata = read_metadata(folder)
    assert metadata.counts == {"train": 5, "valid": 3, "test": 2} and metadata.image_shape == (1, 16, 16)
    assert metadata.model_dump().items() >= DESCRIPTION.items()


def test_whoever_writes_to_an_opened_array_does_not_change_the_file(folder):
    code = (
        "import sys, torch; from pathlib import Path; from flowvae.data.arrays import open_images\n"
        "open_images(Path(sys.argv[1]), 'train', torch.device('cpu')).pixels.fill_(1)"
    )
    before = (folder / "train.npy").read_bytes()
    assert subprocess.run([sys.executable, "-c", code, folder], check=False).returncode < 0
    assert (folder / "train.npy").read_bytes() == before


def test_an_array_larger_than_memory_is_mapped(tmp_path):
    """Of zeros, which take no room on the disk."""
    path = tmp_path / "large.npy"
    num_images = 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (3 * 64 * 64)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (num_images, 3, 64, 64)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + num_images * 3 * 64 * 64)
    images = ImageSet(mapped(path), "levels")
    batches = torch.tensor([0, num_images - 1]), torch.tensor([num_images // 2])
    assert len(images) == num_images
    assert [pixels.sum() for _, pixels in gathered(images, batches, lambda size: slice(size))] == [0, 0]


def test_files_are_those_that_numpy_writes(folder, tmp_path):
    for split, pixels in arrays().items():
        np.save(tmp_path / f"{split}.npy", pixels.numpy())
        assert (folder / f"{split}.npy").read_bytes() == (tmp_path / f"{split}.npy").read_bytes()


@pytest.mark.parametrize(
    ("binarization", "reading"),
    [("dynamic", "dynamic"), ("none", "levels"), ("threshold", "bits"), ("larochelle", "bits")],
)
def test_arrays_are_read_as_they_were_binarized(tmp_path, binarization, reading):
    write(tmp_path, binarization=binarization)
    assert open_images(tmp_path, "train", CPU).reading == reading


def test_labels_above_255(tmp_path):
    write(tmp_path, labels=np.array([7, 10_177]))
    assert open_labels(tmp_path).tolist() == [7, 10_177]


def test_rows_of_several_arrays_come_in_order(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (50, 3, 2, 2), dtype=np.uint8)
    rows = Rows.of(grey, np.array([9, 3, 3, 40])) + Rows.of(grey[::-1])
    assert len(rows) == 54 and rows.image_shape == (3, 2, 2)
    for size in (1, 3, 100):
        assert np.array_equal(
            np.concatenate(list(rows.chunks(size))), np.concatenate((grey[[9, 3, 3, 40]], grey[::-1]))
        )


def refused(folder, name, split="train"):
    """Opening fails with one line that names the file."""
    with pytest.raises(InputError) as caught:
        open_labels(folder) if split is None else open_images(folder, split, CPU)
    assert str(folder / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: content + b"0"])
def test_array_of_another_length(folder, damage):
    path = folder / "train.npy"
    path.write_bytes(damage(path.read_bytes()))
    refused(folder, "train.npy")
    assert len(open_images(folder, "valid", CPU)) == 3  # the others still open


def test_flipped_bit(folder):
    for name, split in [("train", "train"), ("test_labels", None)]:
        path = folder / f"{name}.npy"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        refused(folder, f"{name}.npy", split)


def test_array_that_another_run_made(folder):
    np.save(folder / "train.npy", ramp(5).numpy())
    refused(folder, "train.npy")


@pytest.mark.parametrize("name", ["train.npy", METADATA])
def test_missing_file(folder, name):
    (folder / name).unlink()
    refused(folder, name)


def test_nothing_prepared(tmp_path):
    refused(tmp_path / "nowhere", METADATA)


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
    refused(folder, METADATA)


@pytest.mark.parametrize("section", ["sha256", "counts"])
def test_metadata_that_lack_a_split(folder, section):
    edit_metadata(folder, lambda metadata: metadata[section].pop("train"))
    refused(folder, METADATA)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_metadata_that_are_no_json(folder, content):
    (folder / METADATA).write_bytes(content)
    refused(folder, METADATA)


@pytest.mark.parametrize("change", [{"counts": {"train": 6, "valid": 3, "test": 2}}, {"image_shape": [1, 16, 8]}])
def test_metadata_of_another_shape(folder, change):
    edit_metadata(folder, lambda metadata: metadata.update(change))
    refused(folder, "train.npy")
