"""Caltech 101 Silhouettes: Marlin et al. 2010, "Inductive principles for restricted Boltzmann machine learning"."""

from pathlib import Path

import numpy as np

from flowvae.config import MAX_PIXEL
from flowvae.data.arrays import SPLITS
from flowvae.datasets.config import DataConfig
from flowvae.datasets.entry import of_web_file
from flowvae.datasets.raw import RawArrays, RawDataset, as_labels
from flowvae.datasets.web_files import WebFile, checked_path

TITLE = "Caltech 101 Silhouettes"
# The MD5 is that of github.com/google-deepmind/dm_nevis, dm_nevis/datasets_storage/handlers/silhouettes.py.
FILE = WebFile(
    "caltech101_silhouettes/caltech101_silhouettes_28_split1.mat",
    "https://people.cs.umass.edu/~marlin/data/caltech101_silhouettes_28_split1.mat",
    "4483e9c14b188fd09937f9ea6f9ea777",
)
LABELS = {"train": "train_labels", "test": "test_labels"}
KEYS = {"train": "train_data", "valid": "val_data", "test": "test_data"}


def read_silhouettes(root: Path, data: DataConfig) -> RawDataset:
    """Read 4,100 / 2,264 / 2,307 silhouettes of 28 x 28 bits; labels are classes of objects.

    The bits are stored as 0 and 255. Every binarization then leaves exactly these bits.

    Raises:
        InputError: the file is missing or damaged.
    """
    from scipy.io import loadmat

    content = loadmat(checked_path(FILE, root, TITLE), variable_names=[*KEYS.values(), *LABELS.values()])
    images = {split: inverted(content[KEYS[split]]) for split in SPLITS}
    labels = {split: as_labels(content[key].astype(np.int64).ravel() - 1) for split, key in LABELS.items()}
    return RawDataset(
        images={split: RawArrays.of(pixels) for split, pixels in images.items()},
        test_labels=labels["test"],
        train_labels=labels["train"],
        dataset=TITLE,
        origin="Caltech 101 Silhouettes, Benjamin Marlin, from Caltech 101, Fei-Fei Li et al.",
        split=f"{' / '.join(f'{len(pixels):,}' for pixels in images.values())}, as in the file",
        processing="transposed, so that objects stand upright; inverted, as in arXiv:1705.07120; bits as 0 and 255",
    )


def inverted(rows: np.ndarray) -> np.ndarray:
    """Bits, one image per row, each stored column by column, as 0 for 1 and 255 for 0, shape (N, 1, 28, 28)."""
    return np.where(rows == 0, np.uint8(MAX_PIXEL), np.uint8(0)).reshape(-1, 1, 28, 28).swapaxes(2, 3)


CALTECH101_SILHOUETTES = of_web_file(TITLE, FILE, (1, 28, 28), read_silhouettes)
