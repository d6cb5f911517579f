"""SVHN, the cropped digits: Netzer et al. 2011, "Reading digits in natural images"."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowvae.datasets.config import DataConfig
from flowvae.datasets.entry import DatasetEntry, always
from flowvae.datasets.raw import RawArrays, RawDataset, as_labels
from flowvae.datasets.torchvision_reader import split_text, torchvision_errors, train_and_valid

if TYPE_CHECKING:
    from torchvision.datasets import SVHN as TorchvisionSVHN


def svhn_parts(data: DataConfig) -> Sequence[str]:
    """Names of the parts that the settings ask for."""
    return ("train", "test", "extra") if data.svhn.extra else ("train", "test")


def read_svhn(root: Path, data: DataConfig) -> RawDataset:
    """Read SVHN.

    Validation images are drawn from `train`, so they are the same with and without `extra`. torchvision reads each
    file as a whole: 0.25 GB, and 1.6 GB for `extra`.
    """
    training, test = read_part(root, "train"), read_part(root, "test")
    images, labels = train_and_valid(RawArrays.of(training.data), data), [training.labels]
    if data.svhn.extra:
        extra = read_part(root, "extra")
        images["train"] = RawArrays(images["train"].parts + RawArrays.of(extra.data).parts)
        labels.append(extra.labels)
    return RawDataset(
        images=images | {"test": RawArrays.of(test.data)},
        test_labels=as_labels(test.labels),
        train_labels=images["train"].labels(*labels),
        dataset="SVHN with extra" if data.svhn.extra else "SVHN",
        origin="The Street View House Numbers, Yuval Netzer et al.",
        split=split_text(data, "training images", "test images") + (", extra for training" if data.svhn.extra else ""),
    )


def read_part(root: Path, split: str) -> "TorchvisionSVHN":
    """One file: train, test or extra."""
    from torchvision.datasets import SVHN

    with torchvision_errors("SVHN", root / f"{split}_32x32.mat"):
        return SVHN(str(root), split=split)


SVHN = DatasetEntry(
    title="SVHN",
    image_shape=always(3, 32, 32),
    files=lambda data: tuple(f"{part}_32x32.mat" for part in svhn_parts(data)),
    read=read_svhn,
    torchvision="SVHN",
    downloads=lambda data: tuple({"split": part} for part in svhn_parts(data)),
    addresses=("http://ufldl.stanford.edu/housenumbers/train_32x32.mat",),
)
