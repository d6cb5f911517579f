"""Shards: which there are, which split they have, and how their rows become arrays. Ray is tested with the pipeline."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from datafiles import encoded, pixels_of, random_pixels
from examples import data_config

from flowvae.datasets.shard_rows import decode_row
from flowvae.datasets.shards import gathering_id, list_shards, read_shards, shards_fingerprint
from flowvae.errors import InputError

PIXELS = random_pixels(8, 8, 3)
PNG = encoded(PIXELS)
ROW = {"path": "a.tar"}


def config_of(path, **changes):
    return data_config("shards", shards={"uri": str(path), **changes})


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def splits_in(folder):
    shards = list_shards(config_of(folder))
    return {os.path.relpath(path, folder): split for path, split in shards.splits.items()}


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ("train-00000-of-00002.parquet", "validation-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("data/train/0.parquet", "data/val/0.parquet", "data/test/0.parquet"),
        ("imagenet-train-000000.tar", "imagenet-val-000000.tar", "imagenet-test-000000.tar"),
    ],
    ids=["Hugging Face", "folders", "WebDataset"],
)
def test_names_of_shards_say_their_split(tmp_path, train, valid, test):
    touch(tmp_path, train, valid, test, "README.md", ".cache/hidden.parquet.metadata")
    assert splits_in(tmp_path) == {train: "train", valid: "valid", test: "test"}
    (tmp_path / valid).unlink()
    assert splits_in(tmp_path) == {train: "train", test: "test"}


def test_shards_without_splits(tmp_path):
    touch(tmp_path / "train", "b/1.tar", "a/0.tar")  # the folder itself does not count
    assert splits_in(tmp_path / "train") == {"a/0.tar": "", "b/1.tar": ""}
    assert [os.path.basename(info.path) for info in list_shards(config_of(tmp_path / "train")).files] == [
        "0.tar",
        "1.tar",
    ]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), "expected files that end with .tar or .parquet, got neither"),
        (("0.tar", "1.parquet"), "expected files that end with .tar or .parquet, got both"),
        (("train.tar", "1.tar"), "mean no split, train; expected train and test (and optionally valid), or none"),
        (("train.tar", "val.tar"), "mean train, valid; expected train and test"),
    ],
)
def test_shards_that_are_refused(tmp_path, names, says):
    touch(tmp_path, "notes.txt", *names)
    with pytest.raises(InputError) as caught:
        list_shards(config_of(tmp_path))
    assert says in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("nowhere", "nowhere: cannot be read ("),
        ("nonsense://x", "cannot be read ("),
        ("s3://key:secret@bucket/x", "contains credentials"),
        ("s3://bucket/x?secret_key=1", "contains credentials"),
    ],
)
def test_places_that_cannot_be_read(uri, says):
    with pytest.raises(InputError, match=r"^data\.shards\.uri: ") as caught:
        list_shards(config_of(uri))
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_the_fingerprint_follows_the_shards(tmp_path):
    touch(tmp_path, "0.tar")
    first, identity = shards_fingerprint(config_of(tmp_path)), gathering_id(config_of(tmp_path))
    assert gathering_id(config_of(tmp_path, size=[9, 9])) != identity
    assert gathering_id(config_of(tmp_path, test_fraction=0.3)) == identity
    touch(tmp_path, "1.tar")
    assert shards_fingerprint(config_of(tmp_path)) != first and gathering_id(config_of(tmp_path)) != identity


IMAGE_ROWS = {
    "WebDataset": {"png": PNG, "cls": b"3"},
    "Hugging Face": {"image": {"bytes": PNG, "path": None}, "label": 3},
    "bytes": {"image": PNG, "label": np.int64(3)},
    "raw": {"image": PIXELS.tobytes(), "shape": [8, 8, 3], "label": 3.0},
    "another ending is missing": {"jpg": float("nan"), "png": PNG, "cls": b"3\n"},
}


@pytest.mark.parametrize("row", IMAGE_ROWS.values(), ids=IMAGE_ROWS)
def test_rows_become_arrays(tmp_path, row):
    decoded = decode_row(row | ROW, config_of(tmp_path).shards)
    assert np.array_equal(np.frombuffer(decoded["pixels"], np.uint8).reshape(3, 8, 8), PIXELS.transpose(2, 0, 1))
    assert decoded["label"] == 3 and decoded["path"] == "a.tar" and decoded["problem"] == ""
    assert 0 <= decoded["digest"] < 2**63


def test_the_digest_follows_the_image_alone(tmp_path):
    config = config_of(tmp_path).shards
    first, again = (decode_row({"png": PNG, "cls": b"1", "path": path}, config) for path in ("a.tar", "b.tar"))
    other = decode_row({"png": encoded(255 - PIXELS)} | ROW, config)
    assert first["digest"] == again["digest"] != other["digest"]


def test_rows_are_cut_and_resized(tmp_path):
    grey = config_of(tmp_path, size=[4, 2], color=False).shards
    for row in (IMAGE_ROWS["bytes"], IMAGE_ROWS["raw"], {"image": PIXELS[..., :1].tobytes(), "shape": (8, 8, 1)}):
        assert len(decode_row(row | ROW, grey)["pixels"]) == 8


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"png": b"junk"}, "cannot identify image file"),
        ({"png": PNG[:60]}, "truncated"),
        ({"txt": b"a cat"}, "no image or jpg or png beside txt, path"),
        ({"image": None}, "no image or jpg or png beside image, path"),
        ({"image": b"12", "shape": [8, 8]}, "reshape"),
    ],
)
def test_rows_that_cannot_be_read_are_described(tmp_path, row, says):
    decoded = decode_row(row | ROW, config_of(tmp_path).shards)
    assert says in decoded["problem"] and decoded["pixels"] == b"" and decoded["label"] == -1


@pytest.mark.parametrize("label", [b"cat", None, float("nan"), float("inf"), -5, "x", {}])
def test_what_is_no_label(tmp_path, label):
    assert decode_row({"png": PNG, "cls": label} | ROW, config_of(tmp_path).shards)["label"] == -1


def gathered(folder, count=100, splits=None, skipped=None):
    """A folder as Ray writes it."""
    folder.mkdir()
    images = random_pixels(count, 3, 8, 8)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.arange(count))
    np.save(folder / "digests.npy", np.random.default_rng(0).integers(0, 2**63, count, np.uint64))
    np.save(folder / "splits.npy", np.zeros(count, np.uint8) if splits is None else np.array(splits, np.uint8))
    (folder / "skipped.json").write_text(json.dumps(skipped or {}))
    return images


def test_gathered_images_are_split_by_the_names_of_their_shards(tmp_path):
    images = gathered(tmp_path / "a", splits=[1] * 60 + [2] * 10 + [3] * 30)
    dataset = read_shards(tmp_path / "a", config_of("s3://bucket/cats?scheme=http"))
    assert np.array_equal(pixels_of(dataset.images["test"]), images[70:])
    assert dataset.test_labels.tolist() == list(range(70, 100)) and len(dataset.images["valid"]) == 10
    assert dataset.split == "by the names of the shards" and dataset.dataset == "shards cats" and not dataset.banner
    gathered(tmp_path / "b", splits=[1] * 60 + [3] * 40)
    drawn = read_shards(tmp_path / "b", config_of("cats"))
    assert drawn.split == ("by the names of the shards; 0.1 of train drawn for validation, by their contents (seed 0)")
    assert len(drawn.images["train"]) + len(drawn.images["valid"]) == 60 and len(drawn.images["valid"])


def test_gathered_images_are_split_by_their_contents(tmp_path):
    images = gathered(tmp_path / "a", skipped={"": ["x.tar: damaged"]})
    dataset = read_shards(tmp_path / "a", config_of(Path("cats")))
    assert sum(map(len, dataset.images.values())) == 100
    order = np.random.default_rng(1).permutation(100)
    gathered(tmp_path / "b")
    np.save(tmp_path / "b/digests.npy", np.load(tmp_path / "a/digests.npy")[order])
    np.save(tmp_path / "b/images.npy", images[order])
    again = read_shards(tmp_path / "b", config_of(Path("cats")))
    for split in ("train", "valid", "test"):  # each image keeps its split in another order of shards
        one, other = (sorted(map(bytes, pixels_of(found.images[split]))) for found in (dataset, again))
        assert one == other and one
    assert dataset.skipped == {"": ["x.tar: damaged"]}
