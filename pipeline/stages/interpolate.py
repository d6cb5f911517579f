"""interpolate: paths between test images, two variants side by side."""

import torch
from torch import Tensor

from flowvae.data.arrays import is_eight_bit, open_images, open_labels, read_metadata
from flowvae.errors import InputError
from flowvae.interpolation import different_label_pairs, interpolate, random_pairs
from flowvae.model.loading import load
from flowvae.randomness import generator
from pipeline import paths
from pipeline.device import pick_device
from pipeline.params.schema import Params, run_name
from pipeline.pictures import as_ink, image_grid, with_titles, write_png

ZOOM = 2
BLANK_COLUMNS = 1  # between the two variants


def run(params: Params) -> None:
    """Draw one figure.

    Raises:
        InputError: there are fewer than two test images, or a file is missing or damaged.
    """
    config, device = params.interpolation, pick_device()
    bits = generator(device, config.seed, "binarization")
    images = open_images(paths.PREPARED, "test", device).freeze(bits)
    order = generator("cpu", config.seed, "pairs")
    pairs = pairs_to_join(open_labels(paths.PREPARED), config.num_pairs, order).to(device)
    if not len(pairs):
        raise InputError(f"{paths.PREPARED}/test.npy: expected at least 2 images to join, got {len(images)}")
    if len(pairs) < config.num_pairs:
        print(
            f"interpolate: {len(pairs)} pairs of test images instead of {config.num_pairs}, because there are no more"
        )
    eight_bit, halves = is_eight_bit(read_metadata(paths.PREPARED).binarization), []
    for variant in (config.left, config.right):
        vae = load(paths.MODELS / run_name(variant, params.seeds[0]), device)
        dtype = next(vae.parameters()).dtype
        start, end = (images.batch(pairs[:, i], dtype, bits) for i in (0, 1))
        path = interpolate(vae, start, end, config.num_steps, config.path, config.space)
        rows = torch.cat((start[None], path, end[None])).transpose(0, 1)  # (pairs, steps + 2, C, H, W)
        halves.append(as_ink(rows, eight_bit=eight_bit))
    grid = image_grid(side_by_side(*halves), ZOOM)
    write_png(paths.FIGURES / "interpolation.png", with_titles(grid, [config.left, config.right]))


def pairs_to_join(labels: Tensor, num_pairs: int, generator: torch.Generator) -> Tensor:
    """Draw pairs of different labels, or any pairs if all labels are equal.

    Returns:
        Indices, shape (pairs, 2), with at most `num_pairs` pairs.
    """
    if (labels != labels[:1]).any():
        return different_label_pairs(labels, num_pairs, generator)
    return random_pairs(len(labels), num_pairs, generator)


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Two grids, shape (rows, columns, C, H, W), with blank columns between."""
    blank = left.new_zeros(len(left), BLANK_COLUMNS, *left.shape[2:])
    return torch.cat((left, blank, right), dim=1)
