"""What the commands on models do, with torch. Each function returns the line to print."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.commands.images import read_images
from flowvae.commands.masks import read_mask
from flowvae.commands.outputs import as_pixels, write_csv, write_npz, write_rows
from flowvae.data.images import ImageSet
from flowvae.errors import InputError
from flowvae.evaluation import all_indices, batch_of
from flowvae.imputation import impute
from flowvae.interpolation import Space, interpolate
from flowvae.model.loading import load
from flowvae.model.networks import plain_weights
from flowvae.model.vae import VAE
from flowvae.randomness import generator
from flowvae.sampling import GREY, decode_noise

CHUNK = 1000  # latents decoded at once


class Opened(NamedTuple):
    """Images on the device of the model.

    Attributes:
        names: of the images.
        images: with fixed values.
        note: what was done to them, for the line to print; empty for nothing.
    """

    names: list[str]
    images: ImageSet
    note: str

    def batches(self, vae: VAE, size: int = CHUNK) -> Iterator[Tensor]:
        """All images as the model sees them, in order."""
        return (batch_of(self.images, indices, vae) for indices in all_indices(self.images).split(size))

    @property
    def text(self) -> str:
        """How many there are."""
        return count_text(len(self.images))


def count_text(count: int) -> str:
    """1 image, 2 images."""
    return f"{count:,} image{'' if count == 1 else 's'}"


def open_model(folder: Path, device: str | None) -> VAE:
    """Load a model on a device: that with a name, or the GPU if there is one.

    Raises:
        InputError: it cannot be loaded, or there is no such device.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS then computes the same bits on every run
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device: {name!r} is no device of this machine; try cpu or cuda") from error
    return plain_weights(load(folder, place))


def open_both(
    folder: Path, device: str | None, paths: Sequence[Path], binarization: str, seed: int
) -> tuple[VAE, Opened]:
    """Load a model, and read images for it (`open_model`, `open_images`)."""
    vae = open_model(folder, device)
    return vae, open_images(vae, paths, binarization, seed)


def open_images(vae: VAE, paths: Sequence[Path], binarization: str, seed: int) -> Opened:
    """Read images for a model (`read_images`)."""
    shape = vae.config.image_shape
    names, pixels, note = read_images(paths, shape, of_bits=vae.of_bits, binarization=binarization, seed=seed)
    images = ImageSet(pixels.to(next(vae.parameters()).device), "bits" if vae.of_bits else "levels")
    return Opened(names, images, f"; {note}" if note else "")


@torch.inference_mode()
def sample(vae: VAE, out: Path, number: int, temperature: float, *, mean: bool, seed: int) -> str:
    """Draw images from a model."""
    like = next(vae.parameters())
    noise = torch.randn(number, vae.latent_dim, generator=generator("cpu", seed, "prior"), dtype=like.dtype)
    pixels = None if mean else generator(like.device, seed, "pixels")
    images, lost = decode_noise(vae, temperature * noise.to(like.device), CHUNK, pixels)
    num_lost = int(lost.sum())
    if out.suffix.lower() == ".png":
        write_rows(out, images)
    else:
        write_npz(out, images=images if mean or num_lost else as_pixels(images, of_bits=vae.of_bits))
    grey = f"; the prior's flow could not be inverted for {num_lost} of them, which are grey" if num_lost else ""
    return f"{out}: {count_text(number)}{grey}"


@torch.inference_mode()
def reconstruct(vae: VAE, given: Opened, out: Path) -> str:
    """Write images and their reconstructions."""
    batches = list(given.batches(vae))
    images = torch.cat(batches)
    made = torch.cat([vae.likelihood(vae.posterior(x).push_loc()).mean for x in batches])
    if out.suffix.lower() == ".png":
        write_rows(out, images, made)
    else:
        write_npz(out, names=given.names, images=given.images.pixels, reconstructions=made)
    return f"{out}: {given.text} and their reconstructions{given.note}"


@torch.inference_mode()
def walk(vae: VAE, given: Opened, out: Path, num_steps: int, path: str, space: Space) -> str:
    """Write the paths between pairs of images.

    Raises:
        InputError: an image has no partner.
    """
    if len(given.images) % 2:
        raise InputError(f"interpolate: expected images in pairs, got {len(given.images)}")
    images = torch.cat(list(given.batches(vae)))
    start, end = images[::2], images[1::2]
    pairs = zip(start.split(max(1, CHUNK // num_steps)), end.split(max(1, CHUNK // num_steps)))
    paths = torch.cat([interpolate(vae, *pair, num_steps, path, space) for pair in pairs], dim=1)
    if out.suffix.lower() == ".png":
        rows = torch.cat((start[None], paths, end[None])).transpose(0, 1)
        write_rows(out, rows.flatten(0, 1), columns=rows.shape[1])
    else:
        ends = {name: as_pixels(each, of_bits=vae.of_bits) for name, each in (("start", start), ("end", end))}
        write_npz(out, images=paths.transpose(0, 1), **ends, names=given.names)
    return f"{out}: {path} paths between {given.text}, in pairs{given.note}"


@torch.inference_mode()
def encode(vae: VAE, given: Opened, out: Path) -> str:
    """Write the latents of images."""
    latents = torch.cat([vae.posterior(x).push_loc() for x in given.batches(vae)])
    if out.suffix.lower() == ".csv":
        header = ["image", *(f"z{i}" for i in range(vae.latent_dim))]
        write_csv(out, header, ([name, *row] for name, row in zip(given.names, latents.tolist())))
    else:
        write_npz(out, names=given.names, latents=latents)
    return f"{out}: {vae.latent_dim} latents of each of {given.text}{given.note}"


def fill_in(vae: VAE, given: Opened, out: Path, mask: str, num_steps: int, *, mean: bool, seed: int) -> str:
    """Fill in the missing pixels of images.

    Raises:
        InputError: the mask does not fit.
    """
    like = next(vae.parameters())
    missing = torch.from_numpy(read_mask(mask, vae.config.image_shape, len(given.images)).copy()).to(like.device)
    everywhere = missing.expand(len(given.images), *vae.config.image_shape)
    images, drawn = torch.cat(list(given.batches(vae))), generator(like.device, seed, "pixels")
    parts = [impute(vae, x, where, num_steps, drawn) for x, where in zip(images.split(CHUNK), everywhere.split(CHUNK))]
    filled = torch.cat([part.means if mean else part.draws for part in parts])
    if out.suffix.lower() == ".png":
        write_rows(out, images, torch.where(everywhere, GREY, images), filled)
    else:
        made = filled if mean else as_pixels(filled, of_bits=vae.of_bits)
        write_npz(out, names=given.names, images=made, given=given.images.pixels, missing=everywhere)
    share = missing.float().mean().item()
    return f"{out}: {share:.0%} of the pixels of {given.text} filled in, {num_steps:,} steps, seed {seed}{given.note}"
