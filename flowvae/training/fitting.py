"""`flowvae.fit`: training on images in any form."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from flowvae.data.arrays import open_images
from flowvae.data.images import ImageSet
from flowvae.model.likelihoods import as_bytes
from flowvae.model.vae import VAE
from flowvae.training.config import TrainingConfig
from flowvae.training.loop import fit
from flowvae.training.state import EpochRecord

Images = ImageSet | Tensor | np.ndarray | Dataset[Any] | Path | str


def fit_images(
    vae: VAE,
    train: Images,
    valid: Images,
    *,
    seed: int = 0,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    **settings: Any,
) -> list[EpochRecord]:
    """Train a model in place. Afterwards it has the weights of the epoch that was best on the validation images.

    Args:
        vae: the model, on the device on which it is to be trained.
        train, valid: images as an array or tensor (values as for `VAE.images`), as a Dataset of images or of tuples
            that begin with an image, or as a folder of prepared images.
        seed: of the order of the images and of all noise.
        on_epoch: called after each epoch.
        settings: fields of `flowvae.TrainingConfig`; `epochs` is required.

    Returns:
        One record per epoch, with losses in nats, gradient norms and the learning rate.

    Raises:
        ValueError: images or settings do not fit the model.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    config = TrainingConfig(**settings)
    images, valid_images = image_set(vae, train, "train"), image_set(vae, valid, "valid")
    return fit(vae, images, valid_images, config, seed=seed, on_epoch=on_epoch)


def image_set(vae: VAE, images: Images, split: str) -> ImageSet:
    """Images in any form as a set, on the device of the model.

    Args:
        vae: the model.
        images: as for `fit_images`.
        split: which part of a folder to open.

    Raises:
        ValueError: the images do not fit the model, or there are none.
    """
    device = next(vae.parameters()).device
    if isinstance(images, str | Path):
        images = open_images(Path(images), split, device)
    elif not isinstance(images, ImageSet):
        x = stacked(images) if isinstance(images, Dataset) else torch.as_tensor(images)
        pixels = as_bytes(vae.with_channels(x), of_bits=vae.of_bits).to(device)
        images = ImageSet(pixels, "bits" if vae.of_bits else "levels")
    if images.image_shape != vae.config.image_shape or not len(images):
        raise ValueError(
            f"expected {split} images of shape {vae.config.image_shape}, got {len(images)} of {images.image_shape}"
        )
    if (images.reading == "levels") == vae.of_bits:
        described, got = ("bits", "8-bit values")[:: 1 if vae.of_bits else -1]
        raise ValueError(f"expected {split} images of {described}, which the likelihood describes, got {got}")
    return images


def stacked(dataset: Dataset[Any]) -> Tensor:
    """All images of a Dataset, shape (N, C, H, W) or (N, H, W).

    Raises:
        ValueError: an item is neither an image nor a tuple that begins with one, or the images differ in shape.
    """
    images = [image_of(item[0] if isinstance(item, tuple | list) else item) for item in items_of(dataset)]
    if len({image.shape for image in images}) > 1:
        raise ValueError("expected images of one shape in the dataset, got several")
    return torch.stack(images) if images else torch.empty(0)


def items_of(dataset: Dataset[Any]) -> Iterator[Any]:
    """All items of a Dataset, in order."""
    if isinstance(dataset, IterableDataset):
        return iter(dataset)
    return (dataset[i] for i in range(len(dataset)))  # type: ignore[arg-type]  # datasets that are mapped have a length


def image_of(value: Any) -> Tensor:
    """An image as a tensor; images of Pillow are arrays for NumPy.

    Raises:
        ValueError: the value is not an array.
    """
    try:
        return value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except TypeError as error:
        raise ValueError(f"expected images in the dataset, got {type(value).__name__}") from error
