"""Labels of prepared training images, in files of their own, on which no training depends."""

import io
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from flowvae.data.arrays import ArrayInfo
from flowvae.errors import InputError
from flowvae.files import sha256, write_atomically

TRAIN_LABELS = "train_labels"


def write_train_labels(folder: Path, labels: np.ndarray | None, num_images: int) -> None:
    """Write labels and what they are.

    Args:
        folder: of prepared images.
        labels: integers, shape (num_images,); None if there are none: then each image is a class of its own.
        num_images: of the training set.
    """
    path, array = folder / f"{TRAIN_LABELS}.npy", io.BytesIO()
    np.save(array, np.arange(num_images) if labels is None else labels)
    write_atomically(path, array.getvalue())
    info = ArrayInfo(shape=(num_images,), binarization=None, sha256=sha256(path))
    write_atomically(path.with_suffix(".json"), (info.model_dump_json(indent=2) + "\n").encode())


def read_train_labels(folder: Path) -> np.ndarray:
    """Read labels, integers, shape (N,).

    Raises:
        InputError: a file is missing or damaged.
    """
    path, again = folder / f"{TRAIN_LABELS}.npy", "run the stage 'prepare' again"
    try:
        info = ArrayInfo.model_validate_json(path.with_suffix(".json").read_bytes())
        intact = sha256(path) == info.sha256
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); run the stage 'prepare' again"
        ) from error
    except ValidationError as error:
        raise InputError(f"{path.with_suffix('.json')}: damaged; {again}") from error
    if not intact:
        raise InputError(f"{path}: damaged, its checksum is not the one beside it; {again}")
    labels: np.ndarray = np.load(path, allow_pickle=False)
    return labels
