"""The standard data sets, read from small files in their own formats, most of them by torchvision."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from datafiles import (
    WRITERS,
    decode_in_this_process,
    face,
    pixels_of,
    put_on_disk,
    write_idx_set,
    write_imagenet,
)
from examples import data_config
from PIL import Image

from flowvae.datasets import frey_faces, omniglot_burda
from flowvae.datasets.raw import RawFiles
from flowvae.datasets.registry import DATASETS
from flowvae.errors import InputError

IN_COLOUR = ("svhn", "cifar10", "celeba", "imagenet")
WITH_VALIDATION = ("celeba", "caltech101-silhouettes")
CHECKED = (
    *("svhn", "cifar10", "celeba", "imagenet", "omniglot", "omniglot-burda"),
    *("caltech101-silhouettes", "frey-faces"),
)


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Write a data set and read it. Returns: what was written, and the data set."""

    def call(name, **changes):
        written = put_on_disk(name, tmp_path, monkeypatch)
        return written, DATASETS[name].read(tmp_path, data_config(name, **changes))

    return call


def check_held_out(training, dataset, fraction=0.1):
    """Training and validation images partition the images of the files, each in order."""
    train, valid = pixels_of(dataset.images["train"]), pixels_of(dataset.images["valid"])
    assert len(valid) == round(fraction * len(training)) and len(train) + len(valid) == len(training)
    positions = [np.flatnonzero((training == image).all((1, 2, 3))).item() for image in (*train, *valid)]
    assert sorted(positions) == list(range(len(training)))
    assert positions[: len(train)] == sorted(positions[: len(train)])
    return positions[len(train) :]


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_data_sets_with_the_files_of_mnist(read, name):
    (training, test), dataset = read(name)
    check_held_out(training[:, None], dataset)
    assert np.array_equal(pixels_of(dataset.images["test"]), test[:, None])
    assert dataset.test_labels.tolist() == [i % 10 for i in range(20)]


def test_emnist_stands_upright(read):
    (training, test), dataset = read("emnist")
    check_held_out(training.transpose(0, 2, 1)[:, None], dataset)
    assert np.array_equal(pixels_of(dataset.images["test"])[:, 0], test.transpose(0, 2, 1))
    assert dataset.dataset == "EMNIST balanced"


def test_cifar10(read):
    (training, test), dataset = read("cifar10")
    check_held_out(training, dataset)
    assert np.array_equal(pixels_of(dataset.images["test"]), test)
    assert dataset.test_labels.tolist() == list(range(8))


def test_svhn_with_and_without_extra(read):
    written, dataset = read("svhn")
    valid = check_held_out(written["train"], dataset)
    assert np.array_equal(pixels_of(dataset.images["test"]), written["test"])
    assert dataset.test_labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert dataset.dataset == "SVHN"
    _, more = read("svhn", svhn={"extra": True})
    assert len(more.images["train"]) == 36 + 30
    assert np.array_equal(pixels_of(more.images["train"])[36:], written["extra"])
    assert np.array_equal(pixels_of(more.images["valid"]), written["train"][valid])  # comparable with and without
    assert "extra" in more.dataset and "extra" in more.split


@pytest.mark.parametrize("size", [64, 32, 128])
def test_celeba(read, size):
    names, dataset = read("celeba", celeba={"size": size})
    assert {split: files.names for split, files in dataset.images.items()} == names  # its own partition
    assert dataset.test_labels.tolist() == [9000 + i // 2 for i in range(50, 60)]
    (first, *_) = decode_in_this_process(dataset.images["test"].pick(np.arange(1)))
    with Image.open(dataset.images["test"].folder / names["test"][0]) as image:
        expected = image.crop((15, 35, 163, 183)).resize((size, size), Image.Resampling.BILINEAR)
    assert np.array_equal(first, np.asarray(expected).transpose(2, 0, 1))
    rough = np.asarray(face(50).crop((15, 35, 163, 183)).resize((size, size))).transpose(2, 0, 1)
    assert abs(first.astype(int) - rough).mean() < 6  # this face, not another one, and neither rotated nor stretched


def test_omniglot_has_white_ink_on_28_by_28(read):
    _, dataset = read("omniglot")
    assert {split: len(files) for split, files in dataset.images.items()} == {"train": 18, "valid": 2, "test": 20}
    assert dataset.images["test"].names == sorted(dataset.images["test"].names)
    assert dataset.test_labels.tolist() == [0] * 10 + [1] * 10  # Angelic, Tengwar
    images = decode_in_this_process(dataset.images["test"])
    assert images.shape == (20, 1, 28, 28)
    assert images[0, 0, 0, 0] == 0 and images.max() == 255
    stroke = images[0, 0] > 127
    assert stroke[6:21].any() and not stroke[:5].any() and not stroke[:, 10:].any()
    assert pytest.approx(images[0].mean() / 255, rel=0.1) == 8 * 60 / 105**2


def test_imagenet_is_read_from_its_archives(read):
    written, dataset = read("imagenet")
    assert {split: len(files) for split, files in dataset.images.items()} == {"train": 54, "valid": 6, "test": 20}
    assert np.array_equal(decode_in_this_process(dataset.images["test"]), written["valid"])
    held_out = decode_in_this_process(dataset.images["valid"])
    positions = [np.flatnonzero((written["train"] == image).all((1, 2, 3))).item() for image in held_out]
    kept = np.delete(written["train"], positions, axis=0)
    assert np.array_equal(decode_in_this_process(dataset.images["train"]), kept)
    assert len(dataset.test_labels) == 20 and dataset.dataset == "ImageNet 32"


def test_imagenet_64_has_archives_of_its_own(tmp_path, monkeypatch):
    data = data_config("imagenet", imagenet={"size": 64})
    put_on_disk("imagenet", tmp_path, monkeypatch)
    assert not DATASETS["imagenet"].is_in(tmp_path, data)
    write_imagenet(tmp_path, size=64)
    assert DATASETS["imagenet"].is_in(tmp_path, data) and DATASETS["imagenet"].image_shape(data) == (3, 64, 64)
    with pytest.raises(
        InputError, match=r"train_64x64\.tar: not that archive of ImageNet, or damaged \(it has .* bytes"
    ):
        DATASETS["imagenet"].read(tmp_path, data)


def test_a_damaged_archive_of_the_right_size(read, tmp_path):
    read("imagenet")
    with (tmp_path / "imagenet/valid_32x32.tar").open("r+b") as file:
        file.seek(2000)
        file.write(b"X")
    with pytest.raises(InputError, match=r"valid_32x32\.tar: .*it has another SHA-256"):
        DATASETS["imagenet"].read(tmp_path, data_config("imagenet"))


def test_omniglot_in_the_split_of_burda_stands_upright(read):
    (training, test), dataset = read("omniglot-burda")
    check_held_out(training, dataset, fraction=1345 / 24345)
    assert np.array_equal(pixels_of(dataset.images["test"]), test)
    assert dataset.test_labels.tolist() == list(range(20))
    assert dataset.split.startswith("60 training images less 3 of them drawn")
    assert round(24345 * omniglot_burda.VALID_FRACTION) == 1345


def test_grey_values_are_rounded_to_8_bits(tmp_path):
    pixels = omniglot_burda.grey_images(np.full((784, 1), 0.6 / 255), tmp_path)
    assert pixels.dtype == np.uint8 and (pixels == 1).all()


def test_grey_values_out_of_range_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected grey values from 0 to 1, got 0 to 255"):
        omniglot_burda.grey_images(np.array([[0.0, 255.0]]), tmp_path)


def test_silhouettes_have_their_own_split_and_are_bits(read):
    written, dataset = read("caltech101-silhouettes")
    for split, part in (("train", "train"), ("valid", "val"), ("test", "test")):
        pixels = pixels_of(dataset.images[split])
        assert np.array_equal(pixels, written[part]) and np.unique(pixels).tolist() == [0, 255]
    assert dataset.test_labels.tolist() == list(range(20)) and dataset.split == "40 / 20 / 20, as in the file"


def test_frey_faces_are_shuffled_and_split(read):
    frames, dataset = read("frey-faces")
    counts = {split: len(images) for split, images in dataset.images.items()}
    assert counts == {"train": 160, "valid": 20, "test": 20} and dataset.split.startswith("160 / 20 / 20, shuffled")
    assert round(1965 * frey_faces.HELD_OUT) == 200
    pixels = np.concatenate([pixels_of(images) for images in dataset.images.values()])
    positions = [np.flatnonzero((frames == image).all((1, 2, 3))).item() for image in pixels]
    assert sorted(positions) == list(range(200)) and positions != sorted(positions)


@pytest.mark.parametrize("name", WRITERS)
def test_shapes_are_known_before_the_images_are_read(read, name):
    _, dataset = read(name, celeba={"size": 20})
    expected = DATASETS[name].image_shape(data_config(name, celeba={"size": 20}))
    assert all(images.image_shape == expected for images in dataset.images.values())
    assert (expected[0] == 3) == (name in IN_COLOUR)


@pytest.mark.parametrize("name", WRITERS)
def test_validation_follows_the_seed(read, name):
    valid = [dataset.images["valid"] for _, dataset in (read(name, seed=seed) for seed in (0, 0, 1))]
    first, again, other = (
        decode_in_this_process(images) if isinstance(images, RawFiles) else pixels_of(images) for images in valid
    )
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (name in WITH_VALIDATION)


@pytest.mark.parametrize("name", WRITERS)
def test_missing_files(tmp_path, monkeypatch, name):
    entry, data = DATASETS[name], data_config(name)
    assert not entry.is_in(tmp_path, data)
    put_on_disk(name, tmp_path, monkeypatch)
    assert entry.is_in(tmp_path, data)
    missing = tmp_path / entry.files(data)[0]
    missing.unlink()
    assert not entry.is_in(tmp_path, data)
    with pytest.raises(InputError) as caught:
        entry.read(tmp_path, data)
    assert "\n" not in str(caught.value) and entry.title in str(caught.value) and str(tmp_path) in str(caught.value)
    assert missing.name in entry.by_hand(data)


@pytest.mark.parametrize("name", CHECKED)
def test_files_with_another_checksum(tmp_path, monkeypatch, name):
    """The tables contain the checksums of the real files."""
    WRITERS[name](tmp_path)
    with pytest.raises(InputError, match="damaged") as caught:
        DATASETS[name].read(tmp_path, data_config(name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist", "emnist"])
@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: b"\1" + content])
def test_damaged_idx_files(tmp_path, monkeypatch, name, damage):
    put_on_disk(name, tmp_path, monkeypatch)
    path = tmp_path / DATASETS[name].files(data_config(name))[0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="damaged") as caught:
        DATASETS[name].read(tmp_path, data_config(name))
    assert "\n" not in str(caught.value)


def test_unpacked_files_are_compared_with_their_archive(tmp_path, monkeypatch):
    """torchvision's checksum is that of the .gz, which its download keeps beside the unpacked file."""
    import hashlib

    from torchvision.datasets import KMNIST

    folder = tmp_path / "KMNIST/raw"
    write_idx_set(folder, ("train", "t10k"))
    table = []
    for name, _ in KMNIST.resources:
        archive = gzip.compress((folder / Path(name).stem).read_bytes())
        (folder / name).write_bytes(archive)
        table.append((name, hashlib.md5(archive).hexdigest()))
    monkeypatch.setattr(KMNIST, "resources", table)
    DATASETS["kmnist"].read(tmp_path, data_config("kmnist"))
    path = folder / "train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte is not what is in train-images-idx3-ubyte\.gz"):
        DATASETS["kmnist"].read(tmp_path, data_config("kmnist"))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_addresses_are_those_that_torchvision_downloads_from(name):
    import torchvision

    kind = getattr(torchvision.datasets, DATASETS[name].torchvision)
    assert list(DATASETS[name].addresses) == [mirror + kind.resources[0][0] for mirror in kind.mirrors]


def test_other_addresses_are_those_of_torchvision():
    from torchvision.datasets import CIFAR10, EMNIST, SVHN, Omniglot

    assert DATASETS["cifar10"].addresses == (CIFAR10.url,)
    assert DATASETS["emnist"].addresses == (EMNIST.url,)
    assert DATASETS["svhn"].addresses == (SVHN.split_list["train"][0],)
    assert DATASETS["omniglot"].addresses == (f"{Omniglot.download_url_prefix}/images_background.zip",)


def test_files_are_those_that_torchvision_looks_for():
    from torchvision.datasets import CIFAR10, SVHN, CelebA

    data = data_config("svhn", svhn={"extra": True})
    assert set(DATASETS["svhn"].files(data)) == {entry[1] for entry in SVHN.split_list.values()}
    assert {Path(file).name for file in DATASETS["cifar10"].files(data)} == {
        *(name for name, _ in CIFAR10.train_list + CIFAR10.test_list),
        CIFAR10.meta["filename"],
    }
    assert {Path(file).name for file in DATASETS["celeba"].files(data)} == {
        name.removesuffix(".zip") for _, _, name in CelebA.file_list
    }
