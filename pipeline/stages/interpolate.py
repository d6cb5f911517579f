"""interpolate: paths between test images, two variants side by side."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowvae.data.arrays import open_images, open_labels, read_metadata
from flowvae.errors import InputError
from flowvae.interpolation import different_label_pairs, interpolate, random_pairs
from flowvae.model.loading import load
from flowvae.model.networks import plain_weights
from flowvae.model.vae import VAE
from flowvae.pictures import as_ink, image_grid, with_titles, write_png
from flowvae.randomness import generator
from pipeline import paths
from pipeline.device import pick_device
from pipeline.params.schema import InterpolationConfig, Params, run_name
from pipeline.running.placement import find_placement

ZOOM = 2
BLANK_COLUMNS = 1  # between the two variants


def run(params: Params) -> None:
    """Draw one figure.

    Raises:
        InputError: there are fewer than two test images, or a file is missing or damaged.
    """
    config = params.interpolation
    placement = find_placement(None, torch.get_num_threads(), torch.cuda.device_count(), os.environ)
    variants = [config.left, config.right]
    vaes = [load(paths.MODELS / run_name(variant, params.seeds[0]), "cpu") for variant in variants]
    call = partial(draw, list(map(plain_weights, vaes)), config)
    if placement.address:
        from pipeline.distributed.remote import compute_on_ray

        grid, num_pairs = compute_on_ray(call, paths.PREPARED.resolve(), read_metadata(paths.PREPARED), placement)
    else:
        grid, num_pairs = call(paths.PREPARED, pick_device())
    if num_pairs < config.num_pairs:
        print(f"interpolate: {num_pairs} pairs of test images instead of {config.num_pairs}, because there are no more")
    write_png(paths.FIGURES / "interpolation.png", with_titles(grid, variants))


def draw(
    vaes: Sequence[VAE], config: InterpolationConfig, prepared: Path, device: torch.device
) -> tuple[np.ndarray, int]:
    """Draw the paths of each model side by side on a device, with the test images in the folder `prepared`.

    Returns:
        The figure without titles, and the number of pairs in it.
    """
    bits = generator(device, config.seed, "binarization")
    images = open_images(prepared, "test", device).freeze(bits)
    order = generator("cpu", config.seed, "pairs")
    pairs = pairs_to_join(open_labels(prepared), config.num_pairs, order).to(device)
    if not len(pairs):
        raise InputError(f"{prepared}/test.npy: expected at least 2 images to join, got {len(images)}")
    halves = []
    for vae in vaes:
        vae = vae.to(device)
        dtype = next(vae.parameters()).dtype
        start, end = (images.batch(pairs[:, i], dtype, bits) for i in (0, 1))
        path = interpolate(vae, start, end, config.num_steps, config.path, config.space)
        rows = torch.cat((start[None], path, end[None])).transpose(0, 1)  # (pairs, steps + 2, C, H, W)
        halves.append(as_ink(rows, eight_bit=images.reading == "levels"))
    return image_grid(side_by_side(*halves), ZOOM), len(pairs)


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
