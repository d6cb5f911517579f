"""Images side by side."""

import numpy as np
from torch import Tensor

GAP = 2  # pixels between images


def image_grid(images: Tensor, zoom: int = 1) -> np.ndarray:
    """Arrange images in rows and columns on white.

    Args:
        images: ink in [0, 1], shape (rows, columns, 1, H, W).
        zoom: pixels per pixel.

    Returns:
        shape (rows * (H zoom + gap) + gap, columns * (W zoom + gap) + gap).
    """
    rows, columns, _, height, width = images.shape
    step_y, step_x = height * zoom + GAP, width * zoom + GAP
    canvas = np.zeros((rows * step_y + GAP, columns * step_x + GAP), np.float32)
    tiles = images[:, :, 0].cpu().numpy().repeat(zoom, axis=2).repeat(zoom, axis=3)
    for y in range(rows):
        for x in range(columns):
            top, left = GAP + y * step_y, GAP + x * step_x
            canvas[top : top + height * zoom, left : left + width * zoom] = tiles[y, x]
    return canvas
