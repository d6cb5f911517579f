"""OMNIGLOT as most of the VAE literature uses it: images of 28 x 28 and the split of Burda et al., arXiv:1509.00519."""

from pathlib import Path

import numpy as np

from flowvae.datasets.config import DataConfig
from flowvae.datasets.entry import of_web_file
from flowvae.datasets.raw import RawArrays, RawDataset, as_labels, held_out
from flowvae.datasets.web_files import WebFile, checked_path
from flowvae.errors import InputError

TITLE = "OMNIGLOT in the split of arXiv:1509.00519"
# The MD5 is that of github.com/haowen-xu/tfsnippet's loader of OMNIGLOT, which downloads the file from this address.
FILE = WebFile(
    "OMNIGLOT/chardata.mat",
    "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat",
    "21ecaf34373511aa7691cf2e0802aa3d",
)
VALID_FRACTION = 1345 / 24345  # 1,345 of the training images, as in arXiv:1705.07120


def read_omniglot_burda(root: Path, data: DataConfig) -> RawDataset:
    """Read 24,345 training and 8,070 test images of characters; labels are alphabets.

    Raises:
        InputError: the file is missing or damaged.
    """
    from scipy.io import loadmat

    path = checked_path(FILE, root, TITLE)
    content = loadmat(path, variable_names=["data", "target", "testdata", "testtarget"])
    training, test = (grey_images(content[key], path) for key in ("data", "testdata"))
    kept, out = held_out(len(training), VALID_FRACTION, data.seed)
    images = RawArrays.of(training, kept)
    return RawDataset(
        images={
            "train": images,
            "valid": RawArrays.of(training, out),
            "test": RawArrays.of(test),
        },
        test_labels=as_labels(content["testtarget"].argmax(0)),
        train_labels=images.labels(content["target"].argmax(0)),
        dataset="Omniglot, 28 x 28 of arXiv:1509.00519",
        origin="Omniglot, Brenden Lake, Ruslan Salakhutdinov, Joshua Tenenbaum; resized and split by Yuri Burda",
        split=f"{len(training):,} training images less {len(out):,} of them drawn for validation (seed {data.seed}), "
        f"{len(test):,} test images",
        processing="transposed, so that characters stand upright; grey values rounded to 8 bits",
    )


def grey_images(columns: np.ndarray, path: Path) -> np.ndarray:
    """Grey values in [0, 1], one image per column, each stored column by column, as uint8 of shape (N, 1, 28, 28).

    Raises:
        InputError: values are out of range.
    """
    if not 0 <= columns.min() <= columns.max() <= 1:
        raise InputError(f"{path}: expected grey values from 0 to 1, got {columns.min():.3g} to {columns.max():.3g}")
    return np.rint(255 * columns.T).astype(np.uint8).reshape(-1, 1, 28, 28).swapaxes(2, 3)


OMNIGLOT_BURDA = of_web_file(TITLE, FILE, (1, 28, 28), read_omniglot_burda)
