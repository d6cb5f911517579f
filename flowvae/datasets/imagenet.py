"""ImageNet at 32 x 32 and 64 x 64, in the archives that the literature on densities uses (arXiv:1601.06759)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flowvae.datasets.config import DataConfig
from flowvae.datasets.decoder import DecodeOptions
from flowvae.datasets.entry import DatasetEntry
from flowvae.datasets.raw import RawDataset, RawFiles, as_labels
from flowvae.datasets.tar_files import tar_images
from flowvae.datasets.torchvision_reader import split_text, train_and_valid
from flowvae.errors import InputError
from flowvae.files import sha256

# Bytes and SHA-256, from github.com/tensorflow/datasets, tensorflow_datasets/url_checksums/downsampled_imagenet.txt.
ARCHIVES = {
    "train_32x32.tar": (4113018880, "244a323d48f8d72f65ad8b54658c01fed68d2d7bdc77ccb43da58c11e94224e5"),
    "train_64x64.tar": (12112588800, "e2a2c1947a748d0d256e98e6d82800d855441dc9e4de2e71a773f1324c4524d7"),
    "valid_32x32.tar": (161474560, "862e559462b24cf736212a19f6b0d47b55c2dc8ebdaa95ccecfe71260124c8f7"),
    "valid_64x64.tar": (477255680, "eeac03ec4f585baf871d2b4cb9c974bfe345e74878a74e5820fe6eb1041629cd"),
}


def imagenet_files(data: DataConfig) -> Sequence[str]:
    """The archives of the size in the settings: training images, and those on which the literature reports."""
    size = data.imagenet.size
    return tuple(f"imagenet/{part}_{size}x{size}.tar" for part in ("train", "valid"))


def read_imagenet(root: Path, data: DataConfig) -> RawDataset:
    """Read 1,281,149 training images and 49,999 for testing, without unpacking the archives. There are no labels.

    The archive `valid` is for testing, as in the literature; validation images are drawn from `train`.

    Raises:
        InputError: an archive is missing or damaged.
    """
    training, test = (read_archive(root / file, data.imagenet.size) for file in imagenet_files(data))
    return RawDataset(
        images=train_and_valid(training, data) | {"test": test},
        test_labels=as_labels(np.arange(len(test))),
        dataset=f"ImageNet {data.imagenet.size}",
        origin="ImageNet, Jia Deng et al.; made smaller by Aäron van den Oord et al., arXiv:1601.06759",
        split=split_text(data, "images of the archive train", "images of the archive valid for testing"),
    )


def read_archive(path: Path, size: int) -> RawFiles:
    """The images in an archive, once its checksum is verified, which takes a minute for the largest.

    Raises:
        InputError: it is missing, or another one.
    """
    num_bytes, expected = ARCHIVES[path.name]
    try:
        found = path.stat().st_size
        same = found == num_bytes and sha256(path) == expected
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); put that archive of ImageNet there") from error
    if not same:
        wrong = f"has {found:,} bytes instead of {num_bytes:,}" if found != num_bytes else "has another SHA-256"
        raise InputError(f"{path}: not that archive of ImageNet, or damaged (it {wrong}); replace it")
    images, _ = tar_images(path, DecodeOptions(size=(size, size), color=True, crop=None, invert=False))
    return images


IMAGENET = DatasetEntry(
    title="ImageNet",
    image_shape=lambda data: (3, data.imagenet.size, data.imagenet.size),
    files=imagenet_files,
    read=read_imagenet,
    source="http://image-net.org/small (gone; github.com/tensorflow/datasets/issues/4662 says where copies are)",
)
