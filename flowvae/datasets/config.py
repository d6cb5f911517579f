"""Settings of the data: which data set, how it is split, and how grey values become bits.

The settings of every data set are always present, each in its own mapping, and are read only if that data set is
selected. Therefore changing `data.name` is enough to change the data set.
"""

from typing import Annotated, Literal

from pydantic import Field

from flowvae.config import Config, ImageShape, NonNegativeInt, PositiveInt, ProperFraction

Binarization = Literal["static", "larochelle", "dynamic", "threshold", "none"]
OpenFraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
ImageSize = Annotated[tuple[PositiveInt, PositiveInt], Field(strict=False)]


class EMNISTConfig(Config):
    """Settings of EMNIST: which of its six arrangements (arXiv:1702.05373, table II)."""

    split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"]


class SVHNConfig(Config):
    """Settings of SVHN: whether the 531,131 easier images of `extra` are added to the training images."""

    extra: bool


class CelebAConfig(Config):
    """Settings of CelebA: height and width of the images."""

    size: PositiveInt


class ImageNetConfig(Config):
    """Settings of ImageNet: height and width of the images."""

    size: Literal[32, 64]


class FolderConfig(Config):
    """Settings of a folder of images.

    Attributes:
        path: of the folder, or of an uncompressed tar archive.
        size: (height, width) to which images are cropped and resized.
        color: three channels, or one of grey.
        test_fraction: of the images, drawn for testing if the folder has no folders train and test.
    """

    path: Annotated[str, Field(min_length=1)]
    size: ImageSize
    color: bool
    test_fraction: OpenFraction


class ArraysConfig(Config):
    """Settings of your own arrays.

    Attributes:
        path: of a .npy or .npz file, or of a folder of .npy files.
        shape: (channels, height, width) of the images.
        test_fraction: of the images, drawn for testing if the arrays are not split by their names.
    """

    path: Annotated[str, Field(min_length=1)]
    shape: ImageShape
    test_fraction: OpenFraction


class ShardsConfig(Config):
    """Settings of shards, WebDataset or Parquet, which are read by Ray.

    Attributes:
        uri: of the folder with the shards: a path, or s3://BUCKET/FOLDER, as in FLOWVAE_STORAGE.
        image: names under which an image may be: columns of Parquet, endings of files in WebDataset.
        label: the same for its label.
        size: (height, width) to which images are cropped and resized.
        color: three channels, or one of grey.
        test_fraction: of the images, drawn for testing if the shards are not split by their names.
    """

    uri: Annotated[str, Field(min_length=1)]
    image: Names
    label: Names
    size: ImageSize
    color: bool
    test_fraction: OpenFraction


class DataConfig(Config):
    """Settings of the data.

    Attributes:
        name: key of DATASETS.
        binarization: how grey values become bits.
        seed: of the split and of the binarization.
        valid_fraction: of the training images, drawn for validation if the data set has no validation images.
        max_corrupt: the largest fraction of images that may be skipped because they cannot be read.
        fallback: whether a small data set may be used if the selected one is unavailable.
        emnist, svhn, celeba, imagenet, folder, arrays, shards: settings of these data sets.
    """

    name: Literal[
        "mnist",
        "fashion-mnist",
        "kmnist",
        "emnist",
        "omniglot",
        "omniglot-burda",
        "caltech101-silhouettes",
        "frey-faces",
        "svhn",
        "cifar10",
        "celeba",
        "imagenet",
        "folder",
        "arrays",
        "shards",
    ]  # the keys of DATASETS
    binarization: Binarization
    seed: NonNegativeInt
    valid_fraction: OpenFraction
    max_corrupt: ProperFraction
    fallback: bool
    emnist: EMNISTConfig
    svhn: SVHNConfig
    celeba: CelebAConfig
    imagenet: ImageNetConfig
    folder: FolderConfig
    arrays: ArraysConfig
    shards: ShardsConfig
