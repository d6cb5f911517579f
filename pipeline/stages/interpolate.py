"""interpolate: paths between test images, of two variants side by side and of all for the page, and maps of latents."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowvae.config import ImageShape
from flowvae.data.arrays import open_images, open_labels, read_metadata
from flowvae.data.images import ImageSet, shape_of_images
from flowvae.errors import InputError
from flowvae.interpolation import different_label_pairs, interpolate, random_pairs
from flowvae.model.loading import load
from flowvae.model.networks import plain_weights
from flowvae.model.vae import VAE
from flowvae.pictures import as_ink, image_grid, sheet, with_titles, write_png, write_webp
from flowvae.randomness import generator
from pipeline import paths
from pipeline.device import pick_device
from pipeline.files import write_json
from pipeline.latents import (
    MAP_COLUMNS,
    MAP_IMAGES,
    STEPS,
    LatentMap,
    all_paths,
    different_images,
    latent_map,
    num_ends,
    thumbnails,
)
from pipeline.params.schema import InterpolationConfig, Params, run_name
from pipeline.running.placement import find_placement

ZOOM = 2
BLANK_COLUMNS = 1  # between the two variants


@dataclass(frozen=True)
class Drawn:
    """What the stage writes.

    Args:
        grid: the figure of two variants, without titles.
        num_pairs: in the figure.
        sheets: ink without gaps: the images that paths join, in a row, and those of the maps.
        paths: ink of each variant: a row per pair of images, a column per step.
        maps: of each variant.
        ends, labels: labels of the images that paths join, and of those of the maps.
        image_shape: (C, H, W) of those of the maps.
    """

    grid: np.ndarray
    num_pairs: int
    sheets: dict[str, np.ndarray]
    paths: dict[str, np.ndarray]
    maps: dict[str, LatentMap]
    ends: list[int]
    labels: list[int]
    image_shape: ImageShape


def run(params: Params) -> None:
    """Draw the first seed of every variant.

    Raises:
        InputError: there are fewer than two test images, or a file is missing or damaged.
    """
    config = params.interpolation
    placement = find_placement(None, torch.get_num_threads(), torch.cuda.device_count(), os.environ)
    vaes = {
        variant: plain_weights(load(paths.MODELS / run_name(variant, params.seeds[0]), "cpu"))
        for variant in params.variants
    }
    call = partial(draw, vaes, config)
    if placement.address:
        from pipeline.distributed.remote import compute_on_ray

        drawn = compute_on_ray(call, paths.PREPARED.resolve(), read_metadata(paths.PREPARED), placement)
    else:
        drawn = call(paths.PREPARED, pick_device())
    if drawn.num_pairs < config.num_pairs:
        few = f"{drawn.num_pairs} pairs of test images instead of {config.num_pairs}"
        print(f"interpolate: {few}, because there are no more")
    write_png(paths.FIGURES / "interpolation.png", with_titles(drawn.grid, [config.left, config.right]))
    write_latents(drawn)


def write_latents(drawn: Drawn) -> None:
    """Write what the page needs into reports/latents."""
    for name, ink in drawn.sheets.items():
        write_webp(paths.LATENTS / f"{name}.webp", ink)
    for variant, ink in drawn.paths.items():
        write_webp(paths.LATENTS / "paths" / f"{variant}.webp", ink)
    maps = {
        variant: {
            "positions": [list(map(short, row)) for row in each.positions.tolist()],
            "share": round(each.share, 4),
        }
        for variant, each in drawn.maps.items()
    }
    content = {"steps": STEPS, "ends": drawn.ends, "labels": drawn.labels, "columns": MAP_COLUMNS}
    write_json(paths.LATENTS / "maps.json", content | {"image_shape": drawn.image_shape, "maps": maps})


def short(number: float) -> float:
    """A number with four significant digits."""
    return float(f"{number:.4g}")


def draw(vaes: Mapping[str, VAE], config: InterpolationConfig, prepared: Path, device: torch.device) -> Drawn:
    """Draw the paths and maps of all models on a device, with the test images in the folder `prepared`."""
    bits = generator(device, config.seed, "binarization")
    images, labels = open_images(prepared, "test", device).freeze(bits), open_labels(prepared)
    order = generator("cpu", config.seed, "pairs")
    pairs = pairs_to_join(labels, config.num_pairs, order).to(device)
    if not len(pairs):
        raise InputError(f"{prepared}/test.npy: expected at least 2 images to join, got {len(images)}")
    vaes = {variant: vae.to(device).eval() for variant, vae in vaes.items()}
    dtype = next(vaes[config.left].parameters()).dtype
    start, end = (images.batch(pairs[:, i], dtype, bits) for i in (0, 1))
    halves = [rows(vaes[variant], start, end, config, images) for variant in (config.left, config.right)]
    chosen = different_images(
        labels, num_ends(images.image_shape, len(vaes)), generator("cpu", config.seed, "pairs", 1)
    )
    ends = images.batch(chosen.to(device), dtype, bits)
    mapped = torch.randperm(len(images), generator=generator("cpu", config.seed, "pairs", 2))[:MAP_IMAGES]
    many = images.batch(mapped.to(device), dtype, bits)
    small = thumbnails(many)
    found = {name: all_paths(vae, ends, config.path, config.space) for name, vae in vaes.items()}
    return Drawn(
        grid=image_grid(side_by_side(*halves), ZOOM),
        num_pairs=len(pairs),
        sheets={"ends": sheet(ink_of(ends[None], images)), "images": sheet(ink_of(in_columns(small), images))},
        paths={name: sheet(ink_of(frames, images)) for name, frames in found.items()},
        maps={name: latent_map(vae, many) for name, vae in vaes.items()},
        ends=labels[chosen].tolist(),
        labels=labels[mapped].tolist(),
        image_shape=shape_of_images(small.shape),
    )


def rows(vae: VAE, start: Tensor, end: Tensor, config: InterpolationConfig, images: ImageSet) -> Tensor:
    """Ink of the paths between images, which are at both ends, shape (pairs, steps + 2, C, H, W)."""
    path = interpolate(vae, start, end, config.num_steps, config.path, config.space)
    return ink_of(torch.cat((start[None], path, end[None])).transpose(0, 1), images)


def ink_of(values: Tensor, images: ImageSet) -> Tensor:
    """Ink of values that are like those of a set of images."""
    return as_ink(values, eight_bit=images.reading == "levels")


def in_columns(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (rows, MAP_COLUMNS, C, H, W), the last row filled with zeros."""
    missing = images.new_zeros(-len(images) % MAP_COLUMNS, *images.shape[1:])
    return torch.cat((images, missing)).unflatten(0, (-1, MAP_COLUMNS))


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
