"""Settings of the data: which set, how it is split, and how grey values become bits.

Every set's own settings are always there, in a mapping of their own, and are read only when that set is chosen: so
`data.name` alone changes the set.
"""

from typing import Annotated, Literal

from pydantic import Field

from flowvae.config import Config, NonNegativeInt, PositiveInt, ProperFraction

Binarization = Literal["static", "larochelle", "dynamic", "threshold", "none"]
OpenFraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
ImageSize = Annotated[tuple[PositiveInt, PositiveInt], Field(strict=False)]


class EMNISTConfig(Config):
    """Which of EMNIST's six arrangements (arXiv:1702.05373, table II)."""

    split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"]


class SVHNConfig(Config):
    """Whether the 531,131 easier images of `extra` are trained on too."""

    extra: bool


class CelebAConfig(Config):
    """Height and width of the faces."""

    size: PositiveInt


class FolderConfig(Config):
    """A folder of images: where it is, and what they are brought to.

    `size` is height, width. `test_fraction` is read where the folder has no train/ and test/ of its own.
    """

    path: Annotated[str, Field(min_length=1)]
    size: ImageSize
    color: bool
    test_fraction: OpenFraction


class DataConfig(Config):
    """Which images, and how grey values become bits."""

    name: Literal[
        "mnist", "fashion-mnist", "kmnist", "emnist", "omniglot", "svhn", "cifar10", "celeba", "folder"
    ]  # the keys of DATASETS
    binarization: Binarization
    seed: NonNegativeInt
    valid_fraction: OpenFraction
    max_corrupt: ProperFraction
    fallback: bool
    emnist: EMNISTConfig
    svhn: SVHNConfig
    celeba: CelebAConfig
    folder: FolderConfig
