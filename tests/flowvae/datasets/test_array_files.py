"""Arrays of one's own: their names, layouts and labels, their split, and what is refused."""

import math
from pathlib import Path

import numpy as np
import pytest
from datafiles import pixels_of, random_pixels
from examples import data_config

from flowvae.datasets.array_files import arrays_fingerprint, read_arrays
from flowvae.errors import InputError

SHAPE = (3, 6, 4)
IMAGES = random_pixels(200, *SHAPE)
SPLITS = {"train": IMAGES[:120], "valid": IMAGES[120:150], "test": IMAGES[150:]}


def config_of(path, shape=SHAPE, **changes):
    return data_config("arrays", arrays={"path": str(path), "shape": shape, "test_fraction": 0.2}, **changes)


def read(path, **changes):
    return read_arrays(Path("unused"), config_of(path, **changes))


def refusal(path, **changes):
    with pytest.raises(InputError) as caught:
        read(path, **changes)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def assert_split(dataset):
    for split, expected in SPLITS.items():
        assert np.array_equal(pixels_of(dataset.images[split]), expected)


NAMES = {
    "plain": ("train", "valid", "test", "test_labels"),
    "Keras": ("x_train", "x_val", "x_test", "y_test"),
    "MedMNIST": ("train_images", "val_images", "test_images", "test_labels"),
    "words": ("training_set", "validation-set", "Testing", "testing_targets"),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("kind", ["npz", "compressed npz", "folder"])
def test_names_of_splits(tmp_path, names, kind):
    labels = np.arange(50)[::-1]
    arrays = dict(zip(names, (*SPLITS.values(), labels), strict=True)) | {"ids": np.arange(200)}
    path = tmp_path / "arrays"
    if kind == "folder":
        path.mkdir()
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)
    else:
        path = path.with_suffix(".npz")
        (np.savez if kind == "npz" else np.savez_compressed)(path, **arrays)
    dataset = read(path)
    assert_split(dataset)
    assert dataset.test_labels.tolist() == labels.tolist()
    assert dataset.split == "by the names of the arrays" and dataset.note == "arrays passed over: ids"
    assert str(tmp_path) not in dataset.dataset + dataset.origin


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["NCHW", "NHWC"])
def test_layouts_of_colour(tmp_path, axes):
    np.savez(tmp_path / "a.npz", **{split: array.transpose(axes) for split, array in SPLITS.items()})
    assert_split(read(tmp_path / "a.npz"))


def test_layouts_of_grey(tmp_path):
    grey = IMAGES[:, 0]
    for i, array in enumerate((grey, grey[:, None], grey[..., None])):
        np.save(tmp_path / f"{i}.npy", array)
        dataset = read(tmp_path / f"{i}.npy", shape=(1, 6, 4))
        pixels = np.concatenate([pixels_of(images) for images in dataset.images.values()])
        assert pixels.shape == (200, 1, 6, 4) and sorted(map(bytes, pixels)) == sorted(map(bytes, grey))


def rows(dataset):
    """Positions in IMAGES of the images of each split."""
    return {
        split: [np.flatnonzero((image == IMAGES).all((1, 2, 3))).item() for image in pixels_of(images)]
        for split, images in dataset.images.items()
    }


def test_one_array_is_split_by_position_and_appending_moves_no_image(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES[:150], labels=np.arange(150))
    dataset = read(tmp_path / "a.npz")
    before = rows(dataset)
    assert sorted(row for split in before.values() for row in split) == list(range(150))
    assert 15 <= len(before["test"]) <= 45 and 4 <= len(before["valid"]) <= 25
    assert dataset.test_labels.tolist() == before["test"]
    drawn = "0.2 of all images drawn for test, 0.1 of the rest drawn for validation, by their positions (seed 0)"
    assert dataset.split == drawn
    np.save(tmp_path / "more.npy", IMAGES)
    after = rows(read(tmp_path / "more.npy"))
    assert all(set(after[split]) >= set(before[split]) for split in before)
    assert rows(read(tmp_path / "more.npy", seed=1)) != after


def test_validation_images_are_drawn_from_train(tmp_path):
    np.savez(tmp_path / "a.npz", train=SPLITS["train"], test=SPLITS["test"])
    dataset = read(tmp_path / "a.npz")
    found = rows(dataset)
    assert found["test"] == list(range(150, 200)) and sorted(found["train"] + found["valid"]) == list(range(120))
    text = "by the names of the arrays; 0.1 of train drawn for validation, by their positions (seed 0)"
    assert dataset.split == text and found["valid"]


def test_npy_files_are_mapped(tmp_path):
    """So they may be larger than memory: here 1 TB of zeros, which take no room on the disk."""
    shape = (3, 1024, 1024)
    with (tmp_path / "train.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (300_000, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 300_000 * math.prod(shape))
    for split in ("valid", "test"):
        np.save(tmp_path / f"{split}.npy", np.ones((2, *shape), np.uint8))
    dataset = read(tmp_path, shape=shape)
    assert len(dataset.images["train"]) == 300_000
    first = next(dataset.images["train"].chunks(2))
    assert first.shape == (2, *shape) and not first.any()


def test_the_fingerprint_follows_the_files(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    first = arrays_fingerprint(config_of(tmp_path))
    assert arrays_fingerprint(config_of(tmp_path)) == first
    np.save(tmp_path / "labels.npy", np.arange(200))
    assert arrays_fingerprint(config_of(tmp_path)) != first


WRONG = {
    "no test": ({"train": IMAGES}, "has arrays train; expected train and test (and optionally valid), or images"),
    "both": ({"images": IMAGES, "test": IMAGES}, "has arrays images, test; expected train and test"),
    "unknown": ({"faces": IMAGES}, "has arrays faces; expected train and test"),
    "twice": ({"x_train": IMAGES, "train": IMAGES}, "has x_train and train, which mean the same; remove one"),
    "floats": ({"images": IMAGES / 255}, "images: expected uint8, 0 to 255, got float64; convert it"),
    "size": ({"images": IMAGES[:, :, 1:]}, "data.arrays.shape: [3, 6, 4] does not fit "),
    "a scalar": ({"images": np.uint8(3)}, "which has shape ()"),
    "labels": ({"images": IMAGES, "labels": np.arange(3)}, "expected 200 integers, the labels of as many images"),
    "objects": ({"images": np.array([None, "x"], dtype=object)}, "cannot be read as arrays of numbers"),
}


@pytest.mark.parametrize(("arrays", "says"), WRONG.values(), ids=WRONG)
def test_wrong_arrays(tmp_path, arrays, says):
    np.savez(tmp_path / "a.npz", **arrays)
    assert says in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: b"", lambda content: b"junk" * 99])
def test_damaged_files(tmp_path, name, damage):
    (np.save if name == "a.npy" else np.savez)(tmp_path / name, IMAGES)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    assert "cannot be read as arrays of numbers" in refusal(tmp_path / name)


def test_a_damaged_array_in_an_archive(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", IMAGES)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[500:600] = bytes(100)
    (tmp_path / "a.npz").write_bytes(content)
    assert "cannot be read as arrays of numbers" in refusal(tmp_path / "a.npz")


def test_no_files(tmp_path):
    assert "does not exist; set it to a .npy or .npz file" in refusal(tmp_path / "a.npz")
    assert "contains no .npy files; expected train and test" in refusal(tmp_path)
    (tmp_path / "a.txt").write_text("")
    assert "is neither .npy, .npz nor a folder" in refusal(tmp_path / "a.txt")
