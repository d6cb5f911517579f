"""Pictures of several sets of images, row by row."""

import numpy as np
import torch
from torch import Tensor

from flowvae.pictures import as_ink, image_grid, rows_of

COLUMNS = 16
SIDE = 56  # pixels in a picture, to which smaller images are enlarged
CHANNELS = (1, 3)  # of images that a picture can show


def picture_of(*sets: Tensor, columns: int = COLUMNS) -> np.ndarray:
    """The ink of a picture: rows of images of the first set, each above those of the next; 1 is white.

    Args:
        sets: values in [0, 1], shape (N, C, H, W) each, where C is one of CHANNELS.
        columns: images in a row, at most.
    """
    rows = torch.stack([rows_of(as_ink(images, eight_bit=True), columns) for images in sets], dim=1).flatten(0, 1)
    return image_grid(rows, max(1, SIDE // max(rows.shape[-2:])))
