"""interpolate: paths between test images of different digits, two variants side by side."""

import torch
from torch import Tensor

from flowvae.data.arrays import open_images, open_labels
from flowvae.errors import InputError
from flowvae.interpolation import different_digit_pairs, interpolate
from flowvae.randomness import generator
from flowvae.weights import load
from pipeline import paths
from pipeline.device import pick_device
from pipeline.files import write_png
from pipeline.grids import image_grid, with_titles
from pipeline.params import Params, run_key

ZOOM = 2
BLANK_COLUMNS = 1  # between the two variants


def run(params: Params) -> None:
    config, device = params.interpolation, pick_device()
    bits = generator(device, config.seed, "binarization")
    images = open_images(paths.PREPARED, "test", device).freeze(bits)
    order = generator("cpu", config.seed, "pairs")
    try:
        pairs = different_digit_pairs(open_labels(paths.PREPARED), config.num_pairs, order).to(device)
    except ValueError as error:
        raise InputError(f"params.yaml: interpolation.num_pairs: {error}") from error
    halves = []
    for variant in (config.left, config.right):
        vae = load(paths.MODELS / run_key(variant, params.seeds[0]), device)
        dtype = next(vae.parameters()).dtype
        start, end = (images.batch(pairs[:, i], dtype, bits) for i in (0, 1))
        path = interpolate(vae, start, end, config.num_steps, config.path)
        halves.append(torch.cat((start[None], path, end[None])).transpose(0, 1))  # (pairs, steps + 2, C, H, W)
    grid = image_grid(side_by_side(*halves), ZOOM)
    write_png(paths.FIGURES / "interpolation.png", with_titles(grid, [config.left, config.right]))


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Two grids, shape (rows, columns, C, H, W), with blank columns between."""
    blank = left.new_zeros(len(left), BLANK_COLUMNS, *left.shape[2:])
    return torch.cat((left, blank, right), dim=1)
