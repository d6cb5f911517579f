"""The data sets: one literal table, from the name in the settings to everything that differs between them."""

from collections.abc import Iterator

from flowvae.config import ImageShape
from flowvae.datasets.array_files import ARRAYS
from flowvae.datasets.caltech101_silhouettes import CALTECH101_SILHOUETTES
from flowvae.datasets.celeba import CELEBA
from flowvae.datasets.cifar10 import CIFAR10
from flowvae.datasets.config import DataConfig
from flowvae.datasets.emnist import EMNIST
from flowvae.datasets.folder import FOLDER
from flowvae.datasets.frey_faces import FREY_FACES
from flowvae.datasets.imagenet import IMAGENET
from flowvae.datasets.mnist import FALLBACK, LAROCHELLE, MNIST
from flowvae.datasets.mnist_like import FASHION_MNIST, KMNIST
from flowvae.datasets.omniglot import OMNIGLOT
from flowvae.datasets.omniglot_burda import OMNIGLOT_BURDA
from flowvae.datasets.shards import SHARDS
from flowvae.datasets.svhn import SVHN

DATASETS = {
    "mnist": MNIST,
    "fashion-mnist": FASHION_MNIST,
    "kmnist": KMNIST,
    "emnist": EMNIST,
    "omniglot": OMNIGLOT,
    "omniglot-burda": OMNIGLOT_BURDA,
    "caltech101-silhouettes": CALTECH101_SILHOUETTES,
    "frey-faces": FREY_FACES,
    "svhn": SVHN,
    "cifar10": CIFAR10,
    "celeba": CELEBA,
    "imagenet": IMAGENET,
    "folder": FOLDER,
    "arrays": ARRAYS,
    "shards": SHARDS,
}
# All entries that `prepare` may read; `fetch` writes the name of the one that is available.
SOURCES = DATASETS | {"larochelle": LAROCHELLE, "fallback": FALLBACK}


def image_shape(data: DataConfig) -> ImageShape:
    """(C, H, W) of the images that `prepare` will write."""
    return DATASETS[data.name].image_shape(data)


def sources_of(data: DataConfig) -> tuple[str, ...]:
    """Names of the entries of SOURCES that the settings allow, the preferred one first."""
    if data.binarization == "larochelle":
        return ("larochelle",)
    fallback = DATASETS[data.name].fallback
    return (data.name, fallback) if fallback else (data.name,)


def data_contradictions(data: DataConfig) -> Iterator[str]:
    """Combinations of valid settings that are invalid, each as one line that names the key."""
    channels, *_ = image_shape(data)
    if channels > 1 and data.binarization != "none":
        yield f"data.binarization: expected none for the colour images of {data.name}, got {data.binarization!r}"
    elif data.binarization == "larochelle" and data.name != "mnist":
        yield f"data.binarization: larochelle exists for mnist only, and data.name is {data.name!r}"
