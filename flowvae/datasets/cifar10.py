"""CIFAR10: Krizhevsky 2009, "Learning multiple layers of features from tiny images"."""

from pathlib import Path

from flowvae.datasets.config import DataConfig
from flowvae.datasets.entry import DatasetEntry, always, in_folder
from flowvae.datasets.raw import RawArrays, RawDataset, as_labels
from flowvae.datasets.torchvision_reader import split_text, torchvision_errors, train_and_valid

FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")


def read_cifar10(root: Path, data: DataConfig) -> RawDataset:
    """Read CIFAR10. torchvision unpickles its files, but verifies their checksums first."""
    from torchvision.datasets import CIFAR10

    with torchvision_errors("CIFAR10", root / CIFAR10.base_folder):
        training, test = (CIFAR10(str(root), train=train) for train in (True, False))
    images = train_and_valid(RawArrays.of(training.data.transpose(0, 3, 1, 2)), data)
    return RawDataset(
        images=images | {"test": RawArrays.of(test.data.transpose(0, 3, 1, 2))},
        test_labels=as_labels(test.targets),
        train_labels=images["train"].labels(training.targets),
        dataset="CIFAR10",
        origin="CIFAR-10, Alex Krizhevsky, Vinod Nair, Geoffrey Hinton",
        split=split_text(data, "training images", "test images"),
    )


CIFAR10 = DatasetEntry(
    title="CIFAR10",
    image_shape=always(3, 32, 32),
    files=in_folder("cifar-10-batches-py", *FILES),
    read=read_cifar10,
    torchvision="CIFAR10",
    addresses=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
)
