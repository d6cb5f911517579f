"""Data sets in MNIST's file format: Fashion-MNIST and KMNIST."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from flowvae.datasets.config import DataConfig
from flowvae.datasets.entry import DatasetEntry, always, in_folder
from flowvae.datasets.raw import RawDataset, as_labels
from flowvae.datasets.torchvision_reader import grey_arrays, split_text, torchvision_errors, train_and_valid

IDX_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def mnist_like(name: str, title: str, origin: str, address: str) -> DatasetEntry:
    """The entry of a data set in MNIST's format.

    Args:
        name: class in torchvision.datasets.
        title: of the data set.
        origin: who made it.
        address: one of its files.
    """
    return DatasetEntry(
        title=title,
        image_shape=always(1, 28, 28),
        files=in_folder(f"{name}/raw", *IDX_FILES),
        read=mnist_like_reader(name, title, origin),
        torchvision=name,
        addresses=(address,),
    )


def mnist_like_reader(name: str, title: str, origin: str) -> Callable[[Path, DataConfig], RawDataset]:
    """A reader; the arguments are those of `mnist_like`."""

    def read(root: Path, data: DataConfig) -> RawDataset:
        import torchvision

        folder = root / name / "raw"
        with torchvision_errors(title, folder):
            dataset = getattr(torchvision.datasets, name)
            for file, md5 in dataset.resources:
                check_against_archive(folder / file, md5)
            training, test = (dataset(str(root), train=train) for train in (True, False))
        images = train_and_valid(grey_arrays(training.data), data)
        return RawDataset(
            images=images | {"test": grey_arrays(test.data)},
            test_labels=as_labels(test.targets),
            train_labels=images["train"].labels(training.targets),
            dataset=title,
            origin=origin,
            split=split_text(data, "training images", "test images"),
        )

    return read


def check_against_archive(archive: Path, md5: str) -> None:
    """Verify an unpacked file if the .gz archive that it came from is still beside it.

    torchvision knows the checksum of the archive, whose last bytes are the CRC-32 and the size of its contents.

    Raises:
        ValueError: the file or the archive is damaged.
    """
    from torchvision.datasets.utils import check_integrity

    if not archive.is_file():
        return
    if not check_integrity(str(archive), md5):
        raise ValueError(f"{archive.name} has another checksum")
    content = archive.with_suffix("").read_bytes()
    with archive.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        expected = struct.unpack("<II", file.read())
    if (zlib.crc32(content), len(content) & 0xFFFFFFFF) != expected:
        raise ValueError(f"{archive.stem} is not what is in {archive.name}")


FASHION_MNIST = mnist_like(
    "FashionMNIST",
    "Fashion-MNIST",
    "Fashion-MNIST, Han Xiao, Kashif Rasul, Roland Vollgraf",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
)
KMNIST = mnist_like(
    "KMNIST",
    "KMNIST",
    "KMNIST, Tarin Clanuwat et al., adapted from the Kuzushiji dataset of NIJL and others",
    "http://codh.rois.ac.jp/kmnist/dataset/kmnist/train-images-idx3-ubyte.gz",
)
