"""Frey Faces: 1,965 frames of a film of one face, from Sam Roweis' page, https://cs.nyu.edu/~roweis/data.html."""

from pathlib import Path

import numpy as np
import torch

from flowvae.data.arrays import SPLITS
from flowvae.datasets.config import DataConfig
from flowvae.datasets.entry import of_web_file
from flowvae.datasets.raw import RawArrays, RawDataset, as_labels
from flowvae.datasets.web_files import WebFile, checked_path
from flowvae.randomness import generator

TITLE = "Frey Faces"
# The MD5 is that of a public torch Dataset, FreyFace, which downloads the file from this address.
FILE = WebFile(
    "frey_faces/frey_rawface.mat",
    "https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
    "5aeb024d42b8a6091f30e5eb18c8a48d",
)
HELD_OUT = 200 / 1965  # for validation, and again for testing, as in arXiv:1705.07120


def read_frey_faces(root: Path, data: DataConfig) -> RawDataset:
    """Read 1,565 / 200 / 200 frames of 28 x 20 pixels, shuffled. Each is a class of its own.

    Raises:
        InputError: the file is missing or damaged.
    """
    from scipy.io import loadmat

    frames = loadmat(checked_path(FILE, root, TITLE), variable_names=["ff"])["ff"]  # one frame per column
    pixels = np.ascontiguousarray(frames.T).reshape(-1, 1, 28, 20)
    num_out = round(HELD_OUT * len(pixels))
    order = torch.randperm(len(pixels), generator=generator("cpu", data.seed, "split")).numpy()
    parts = dict(zip(SPLITS, np.split(order, (len(pixels) - 2 * num_out, len(pixels) - num_out)), strict=True))
    counts = " / ".join(f"{len(part):,}" for part in parts.values())
    return RawDataset(
        images={split: RawArrays.of(pixels, part) for split, part in parts.items()},
        test_labels=as_labels(np.arange(num_out)),
        dataset=TITLE,
        origin="Frey Faces, Brendan Frey, Sam Roweis",
        split=f"{counts}, shuffled (seed {data.seed}); frames of a film, so neighbours in time are in different splits",
    )


FREY_FACES = of_web_file(TITLE, FILE, (1, 28, 20), read_frey_faces)
