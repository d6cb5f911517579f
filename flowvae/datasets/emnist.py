"""EMNIST: Cohen et al. 2017, arXiv:1702.05373."""

from collections.abc import Sequence
from pathlib import Path

from flowvae.datasets.config import DataConfig
from flowvae.datasets.entry import DatasetEntry, always
from flowvae.datasets.raw import RawDataset, as_labels
from flowvae.datasets.torchvision_reader import grey_arrays, split_text, torchvision_errors, train_and_valid


def emnist_files(data: DataConfig) -> Sequence[str]:
    """Files of the arrangement that `data.emnist.split` names."""
    parts = (f"emnist-{data.emnist.split}-{part}" for part in ("train", "test"))
    return tuple(f"EMNIST/raw/{part}-{kind}-ubyte" for part in parts for kind in ("images-idx3", "labels-idx1"))


def read_emnist(root: Path, data: DataConfig) -> RawDataset:
    """Read EMNIST, whose files hold every image transposed; they are transposed back."""
    from torchvision.datasets import EMNIST

    split = data.emnist.split
    with torchvision_errors(f"EMNIST {split}", root / "EMNIST/raw"):
        training, test = (EMNIST(str(root), split, train=train) for train in (True, False))
    images = train_and_valid(grey_arrays(training.data.mT), data)
    return RawDataset(
        images=images | {"test": grey_arrays(test.data.mT)},
        test_labels=as_labels(test.targets),
        train_labels=images["train"].labels(training.targets),
        dataset=f"EMNIST {split}",
        origin="EMNIST, Gregory Cohen, Saeed Afshar, Jonathan Tapson, André van Schaik",
        split=split_text(data, "training images", "test images"),
        processing="transposed, so that characters stand upright",
    )


EMNIST = DatasetEntry(
    title="EMNIST",
    image_shape=always(1, 28, 28),
    files=emnist_files,
    read=read_emnist,
    torchvision="EMNIST",
    downloads=lambda data: ({"split": data.emnist.split},),
    addresses=("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
)
