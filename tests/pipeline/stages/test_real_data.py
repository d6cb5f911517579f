"""prepare on the real MNIST files, if FLOWVAE_DATA_ROOT has them."""

import json
from pathlib import Path

import numpy as np
import pytest
from project import edit_params

from flowvae.data.arrays import Metadata, read_metadata
from flowvae.datasets.mnist import MNIST_TEST_DIGITS

COUNTS = {"train": 50_000, "valid": 10_000, "test": 10_000}


@pytest.fixture
def prepare(run_stage, data_root, tmp_path, reproduced):
    """Run fetch and prepare with one binarization. Returns: the metadata and the arrays."""

    def run(binarization: str) -> tuple[Metadata, dict[str, np.ndarray]]:
        for name in ("params.yaml", "dvc.yaml"):
            (tmp_path / name).write_bytes((reproduced.folder / name).read_bytes())
        edit_params(tmp_path, lambda params: params["data"].update(binarization=binarization, fallback=False))
        for stage in ("fetch", "prepare"):
            assert run_stage(tmp_path, stage, FLOWVAE_DATA_ROOT=str(data_root)) == (0, [])
        folder = tmp_path / "data/prepared"
        source = json.loads((folder / "source.json").read_text())["source"]
        assert source == ("larochelle" if binarization == "larochelle" else "mnist")
        return read_metadata(folder), {path.stem: load(path) for path in folder.glob("*.npy")}

    def load(path: Path) -> np.ndarray:
        return np.load(path, mmap_mode="r")

    return run


def ink(arrays: dict[str, np.ndarray]) -> float:
    return float(arrays["test"].mean(dtype=np.float64))


@pytest.mark.parametrize("binarization", ["static", "larochelle", "threshold"])
def test_bits(prepare, binarization):
    metadata, arrays = prepare(binarization)
    assert set(arrays) == {*COUNTS, "test_labels", "train_labels"}
    for split, count in COUNTS.items():
        assert arrays[split].shape == (count, 1, 28, 28)
        assert arrays[split].dtype == np.uint8
        assert arrays[split].max() == 1
    assert metadata.binarization == binarization
    assert metadata.counts == COUNTS and metadata.image_shape == (1, 28, 28)
    assert metadata.provenance.dataset == "MNIST" and metadata.provenance.banner is None
    assert np.bincount(arrays["test_labels"]).tolist() == list(MNIST_TEST_DIGITS)
    assert 0.12 < ink(arrays) < 0.14


def test_dynamic_keeps_grey_values(prepare):
    metadata, arrays = prepare("dynamic")
    assert metadata.counts == COUNTS and metadata.binarization == "dynamic"
    assert all(arrays[split].shape == (count, 1, 28, 28) for split, count in COUNTS.items())
    assert arrays["train"].max() == 255
    assert len(np.unique(arrays["test"])) == 256
    assert 0.12 < ink(arrays) / 255 < 0.14


def test_static_draws_depend_on_the_seed_and_the_grey_values(prepare):
    _, arrays = prepare("static")
    first = arrays["test"][:2000].copy()
    threshold = prepare("threshold")[1]["test"][:2000].copy()
    grey = prepare("dynamic")[1]["test"][:2000].copy()
    again = prepare("static")[1]["test"][:2000].copy()
    assert (first == again).all()
    assert (first[grey == 0] == 0).all() and (first[grey == 255] == 1).all()
    middle = (grey > 100) & (grey < 156)
    assert 0.47 < first[middle].mean() < 0.53
    assert (threshold == (grey > 127)).all()


def test_larochelle_labels_match_its_images(prepare):
    """The images are sorted by digit; ones have the least ink, and zeros the most."""
    _, arrays = prepare("larochelle")
    amount = [arrays["test"][arrays["test_labels"] == digit].mean() for digit in range(10)]
    assert np.argmin(amount) == 1 and np.argmax(amount) == 0
    by_image = arrays["test"].mean(axis=(1, 2, 3))
    start = MNIST_TEST_DIGITS[0]
    ones, zeros = by_image[start : start + MNIST_TEST_DIGITS[1]], by_image[:start]
    assert np.quantile(ones, 0.95) < np.quantile(zeros, 0.25)
