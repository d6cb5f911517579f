"""Omniglot: Lake et al. 2015, "Human-level concept learning through probabilistic program induction"."""

from pathlib import Path

import numpy as np

from flowvae.datasets.config import DataConfig
from flowvae.datasets.entry import DatasetEntry, always, in_folder
from flowvae.datasets.raw import DecodeOptions, RawDataset, RawFiles, as_labels
from flowvae.datasets.torchvision_reader import split_text, torchvision_errors, train_and_valid
from flowvae.errors import InputError

DECODE_OPTIONS = DecodeOptions(size=(28, 28), color=False, crop=None, invert=True)  # ink is 1, as in MNIST


def read_omniglot(root: Path, data: DataConfig) -> RawDataset:
    """Read Omniglot, resized to 28 x 28 pixels, white ink on black.

    The background alphabets are for training, the evaluation alphabets for testing, and labels are alphabets.
    The VAE literature inverts the ink in the same way (Burda et al. 2016, arXiv:1509.00519, section 5), but its
    files are split differently (`omniglot_burda.py`), so the name in protocols is not that of published results.
    """
    background, test = (omniglot_files(root, background) for background in (True, False))
    alphabets = [name.split("/")[1] for name in test.names]
    return RawDataset(
        images=train_and_valid(background, data) | {"test": test},
        test_labels=as_labels(np.unique(alphabets, return_inverse=True)[1]),
        dataset="Omniglot by alphabets",
        origin="Omniglot, Brenden Lake, Ruslan Salakhutdinov, Joshua Tenenbaum",
        split=split_text(data, "images of the background alphabets", "images of the evaluation alphabets"),
        processing="resized from 105 x 105 to 28 x 28, bilinear; ink is white",
    )


def omniglot_files(root: Path, background: bool) -> RawFiles:
    """Image files of the background or of the evaluation alphabets.

    Raises:
        InputError: files are missing or damaged.
    """
    from torchvision.datasets import Omniglot

    folder = root / Omniglot.folder
    with torchvision_errors("Omniglot", folder):
        # The loader decides what an item is: here, only its path. torchvision lists folders in no defined order.
        dataset = Omniglot(str(root), background=background, loader=lambda path: path)
        names = sorted(Path(dataset[i][0]).relative_to(folder).as_posix() for i in range(len(dataset)))
    if not names:
        raise InputError(f"{dataset.target_folder}: no images; unpack the .zip file beside it there")
    return RawFiles(folder, names, DECODE_OPTIONS)


OMNIGLOT = DatasetEntry(
    title="Omniglot",
    image_shape=always(1, 28, 28),
    files=in_folder(
        "omniglot-py", "images_background.zip", "images_background", "images_evaluation.zip", "images_evaluation"
    ),
    read=read_omniglot,
    torchvision="Omniglot",
    downloads=lambda data: ({"background": True}, {"background": False}),
    addresses=("https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_background.zip",),
)
