"""CelebA, aligned faces: Liu et al. 2015, arXiv:1411.7766."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flowvae.datasets.config import DataConfig
from flowvae.datasets.entry import DatasetEntry, in_folder
from flowvae.datasets.raw import DecodeOptions, RawDataset, RawFiles, as_labels
from flowvae.datasets.torchvision_reader import torchvision_errors

if TYPE_CHECKING:
    from torchvision.datasets import CelebA as TorchvisionCelebA

FACE = 148  # pixels per side that the literature crops from the centre of an aligned image, which is 178 x 218
FILES = (
    "list_attr_celeba.txt",
    "identity_CelebA.txt",
    "list_bbox_celeba.txt",
    "list_landmarks_align_celeba.txt",
    "list_eval_partition.txt",
    "img_align_celeba",
)


def read_celeba(root: Path, data: DataConfig) -> RawDataset:
    """Read CelebA with its own partition; labels are people.

    The central 148 x 148 pixels are resized, as in arXiv:1605.08803, section 4.1, and most of the literature.
    """
    dataset = celeba_without_attributes()
    size, folder = data.celeba.size, root / dataset.base_folder
    options = DecodeOptions(size=(size, size), color=True, crop=FACE, invert=False)
    images = {}
    for split in ("train", "valid", "test"):
        with torchvision_errors("CelebA", folder):
            part = dataset(str(root), split=split, target_type="identity")
        images[split] = RawFiles(folder / "img_align_celeba", part.filename, options)
    return RawDataset(
        images=images,
        test_labels=as_labels(part.identity.flatten()),
        dataset="CelebA",
        origin="CelebA, aligned, Ziwei Liu, Ping Luo, Xiaogang Wang, Xiaoou Tang",
        split="its own: train / valid / test",
        processing=f"centre {FACE} x {FACE} of 178 x 218, resized to {size} x {size}, bilinear",
    )


def celeba_without_attributes() -> "type[TorchvisionCelebA]":
    """torchvision's class, parsing only two of its five lists: the others would need 0.7 GB."""
    from torchvision.datasets import CelebA
    from torchvision.datasets.celeba import CSV

    class Identities(CelebA):
        def _load_csv(self, filename: str, header: int | None = None) -> CSV:
            if filename in ("list_eval_partition.txt", "identity_CelebA.txt"):
                self.rows = super()._load_csv(filename, header)
                return self.rows
            return CSV([], self.rows.index, torch.empty(len(self.rows.index), 0, dtype=torch.int64))

    return Identities


CELEBA = DatasetEntry(
    title="CelebA",
    image_shape=lambda data: (3, data.celeba.size, data.celeba.size),
    files=in_folder("celeba", *FILES),
    read=read_celeba,
    torchvision="CelebA",
    addresses=("https://drive.google.com",),
)
