"""The standard sets but MNIST, as torchvision reads, checks and downloads them.

torchvision is imported where images are read, and not before: it takes seconds.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowvae.data.config import DataConfig
from flowvae.data.rows import ImageFiles, Rows, Source, as_labels, held_out
from flowvae.errors import InputError

OMNIGLOT = {"size": (28, 28), "color": False, "crop": None, "invert": True}  # ink is 1, as in MNIST
FACE = 148  # pixels of an aligned CelebA image, 178 x 218, that the literature cuts out of its centre
IDENTITIES = "identity"


@contextmanager
def torchvision_reads(what: str, where: Path) -> Iterator[None]:
    """Turn torchvision's errors into one line.

    Raises:
        InputError: files are missing or damaged.
    """
    try:
        yield
    except (RuntimeError, OSError, ValueError, AssertionError, KeyError, EOFError, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{where}: not the files of {what}, or damaged ({reason}); delete them, and put good ones there"
        ) from error


def set_aside(rows: Rows | ImageFiles, data: DataConfig) -> dict[str, Any]:
    """The training images, less those that are drawn for validation."""
    kept, out = held_out(len(rows), data.valid_fraction, data.seed)
    if isinstance(rows, ImageFiles):
        return {"train": rows.pick(kept), "valid": rows.pick(out)}
    ((array, indices),) = rows.parts
    return {"train": Rows.of(array, indices[kept]), "valid": Rows.of(array, indices[out])}


def in_words(data: DataConfig, training: str, test: str) -> str:
    """Of a split whose validation images were drawn."""
    return f"{training} less {data.valid_fraction:.3g} of them drawn for validation (seed {data.seed}), {test}"


def read_like_mnist(name: str, title: str, origin: str) -> Callable[[Path, DataConfig], Source]:
    """A reader of a torchvision class with the files of MNIST."""

    def read(root: Path, data: DataConfig) -> Source:
        import torchvision

        folder = root / name / "raw"
        with torchvision_reads(title, folder):
            kind = getattr(torchvision.datasets, name)
            for file, _ in kind.resources:
                check_against_archive(folder / file, dict(kind.resources)[file])
            training, test = (kind(str(root), train=train) for train in (True, False))
        return Source(
            images=set_aside(grey_rows(training.data), data) | {"test": grey_rows(test.data)},
            test_labels=as_labels(test.targets),
            dataset=title,
            origin=origin,
            split=in_words(data, "training images", "test images"),
        )

    return read


def check_against_archive(archive: Path, md5: str) -> None:
    """Check an unpacked file where the .gz that it came from still lies beside it.

    torchvision knows the checksum of the archive, whose last bytes are the CRC-32 and the size of what is in it.

    Raises:
        ValueError: one of the two is damaged.
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


def grey_rows(pixels: torch.Tensor) -> Rows:
    """(N, H, W) -> rows of (1, H, W)."""
    return Rows.of(pixels.numpy()[:, None])


def read_emnist(root: Path, data: DataConfig) -> Source:
    """EMNIST (arXiv:1702.05373); its files hold each image mirrored along the diagonal, and it is turned upright."""
    from torchvision.datasets import EMNIST

    split = data.emnist.split
    with torchvision_reads(f"EMNIST {split}", root / "EMNIST/raw"):
        training, test = (EMNIST(str(root), split, train=train) for train in (True, False))
    return Source(
        images=set_aside(grey_rows(training.data.mT), data) | {"test": grey_rows(test.data.mT)},
        test_labels=as_labels(test.targets),
        dataset=f"EMNIST {split}",
        origin="EMNIST, Gregory Cohen, Saeed Afshar, Jonathan Tapson, André van Schaik",
        split=in_words(data, "training images", "test images"),
        processing="transposed, so that characters stand upright",
    )


def read_omniglot(root: Path, data: DataConfig) -> Source:
    """Omniglot (Lake et al. 2015, "Human-level concept learning through probabilistic program induction"), 28 x 28.

    The background alphabets are for training, the evaluation alphabets for test, white ink on black as in the
    literature on VAEs (Burda et al. 2016, arXiv:1509.00519, section 5, whose own files are split otherwise).
    Labels are alphabets.
    """
    background, test = (omniglot_files(root, background) for background in (True, False))
    alphabets = [name.split("/")[1] for name in test.names]
    return Source(
        images=set_aside(background, data) | {"test": test},
        test_labels=as_labels(np.unique(alphabets, return_inverse=True)[1]),
        dataset="Omniglot",
        origin="Omniglot, Brenden Lake, Ruslan Salakhutdinov, Joshua Tenenbaum",
        split=in_words(data, "images of the background alphabets", "images of the evaluation alphabets"),
        processing="resized from 105 x 105 to 28 x 28, bilinear; ink is white",
    )


def omniglot_files(root: Path, background: bool) -> ImageFiles:
    from torchvision.datasets import Omniglot

    folder = root / Omniglot.folder
    with torchvision_reads("Omniglot", folder):
        # The loader decides what an item is: here the path alone. torchvision lists folders in no order.
        found = Omniglot(str(root), background=background, loader=lambda path: path)
        names = sorted(Path(found[i][0]).relative_to(folder).as_posix() for i in range(len(found)))
    if not names:
        raise InputError(f"{found.target_folder}: no images; unpack the .zip file beside it there")
    return ImageFiles(folder, names, OMNIGLOT)


def read_svhn(root: Path, data: DataConfig) -> Source:
    """SVHN, the cropped digits (Netzer et al. 2011, "Reading digits in natural images").

    Validation images are drawn from `train`, so that they are the same with and without `extra`. torchvision reads
    each file as a whole: 0.25 GB, and 1.6 GB of `extra`.
    """
    training, test = svhn_part(root, "train"), svhn_part(root, "test")
    images = set_aside(Rows.of(training.data), data)
    if data.svhn.extra:
        images["train"] += Rows.of(svhn_part(root, "extra").data)
    return Source(
        images=images | {"test": Rows.of(test.data)},
        test_labels=as_labels(test.labels),
        dataset="SVHN with extra" if data.svhn.extra else "SVHN",
        origin="The Street View House Numbers, Yuval Netzer et al.",
        split=in_words(data, "training images", "test images") + (", extra for training" if data.svhn.extra else ""),
    )


def svhn_part(root: Path, split: str) -> Any:
    from torchvision.datasets import SVHN

    with torchvision_reads("SVHN", root / f"{split}_32x32.mat"):
        return SVHN(str(root), split=split)


def read_cifar10(root: Path, data: DataConfig) -> Source:
    """CIFAR10 (Krizhevsky 2009, "Learning multiple layers of features from tiny images").

    torchvision unpickles its files, whose checksums it compares first.
    """
    from torchvision.datasets import CIFAR10

    with torchvision_reads("CIFAR10", root / CIFAR10.base_folder):
        training, test = (CIFAR10(str(root), train=train) for train in (True, False))
    return Source(
        images=set_aside(Rows.of(training.data.transpose(0, 3, 1, 2)), data)
        | {"test": Rows.of(test.data.transpose(0, 3, 1, 2))},
        test_labels=as_labels(test.targets),
        dataset="CIFAR10",
        origin="CIFAR-10, Alex Krizhevsky, Vinod Nair, Geoffrey Hinton",
        split=in_words(data, "training images", "test images"),
    )


def read_celeba(root: Path, data: DataConfig) -> Source:
    """CelebA, aligned faces (Liu et al. 2015, arXiv:1411.7766), its own partition; labels are people.

    148 x 148 pixels are cut out of the centre, as in arXiv:1605.08803, section 4.1, and most of the literature, and
    resized.
    """
    kind = celeba_without_attributes()
    size, folder = data.celeba.size, root / kind.base_folder
    how = {"size": (size, size), "color": True, "crop": FACE, "invert": False}
    images = {}
    for split in ("train", "valid", "test"):
        with torchvision_reads("CelebA", folder):
            part = kind(str(root), split=split, target_type=IDENTITIES)
        images[split] = ImageFiles(folder / "img_align_celeba", part.filename, how)
    return Source(
        images=images,
        test_labels=as_labels(part.identity.flatten()),
        dataset="CelebA",
        origin="CelebA, aligned, Ziwei Liu, Ping Luo, Xiaogang Wang, Xiaoou Tang",
        split="its own: train / valid / test",
        processing=f"centre {FACE} x {FACE} of 178 x 218, resized to {size} x {size}, bilinear",
    )


def celeba_without_attributes() -> type:
    """torchvision's class, which checks all lists and here parses two of the five: the others would take 0.7 GB."""
    from torchvision.datasets import CelebA
    from torchvision.datasets.celeba import CSV

    class Identities(CelebA):
        def _load_csv(self, filename: str, header: int | None = None) -> CSV:
            if filename in ("list_eval_partition.txt", "identity_CelebA.txt"):
                self.rows = super()._load_csv(filename, header)
                return self.rows
            return CSV([], self.rows.index, torch.empty(len(self.rows.index), 0, dtype=torch.int64))

    return Identities


def download(name: str, *arguments: dict[str, Any]) -> None:
    """torchvision's download, with progress and checksums.

    Args:
        name: of the class in torchvision.datasets.
        arguments: of the calls that together download the set.

    Raises:
        RuntimeError, OSError: it cannot be had.
    """
    import torchvision

    for each in arguments:
        getattr(torchvision.datasets, name)(**each, download=True)
